"""Resolve, check and instantiate nodes with a `_target_`."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlopt.base.wrapper import Wrapper
from dlopt.config.compose import groups
from dlopt.config.problems import Problems, locate_error
from dlopt.config.schema.renamed_keys import describe_renamed_key
from dlopt.config.schema.signature import describe_mismatch, read_signature
from dlopt.errors import OptionError, did_you_mean

Node = dict[str, Any]


def add_working_directory() -> None:
    """Let custom classes be imported from the working directory.

    It comes last on sys.path: a statistics.py there must not replace the module that a library imports.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


@contextlib.contextmanager
def distrust_working_directory() -> Iterator[None]:
    """Let nothing be imported from the working directory, which may be someone else's, unless dlopt lies there.

    This holds for the processes that are started in this block, too: torch's compiler starts Python in this directory.
    """
    path, former = list(sys.path), os.environ.get("PYTHONSAFEPATH")
    if not Path(__file__).resolve().is_relative_to(Path.cwd()):
        sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.path[:] = path
        if former is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = former


def iter_nodes(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every node with a `_target_`, outer ones first, with its dotted path."""
    for name, value in config.items():
        if isinstance(value, dict):
            at = f"{path}{name}"
            if "_target_" in value:
                yield at, value
            yield from iter_nodes(value, at + ".")


def resolve(path: str, node: Node, problems: Problems) -> Any:
    """Return the object that a node's `_target_` names; None with a problem added."""
    target = node["_target_"]
    if target == "???":
        problems.add(f"{path}._target_", f"name your class: {path}._target_=my_module.MyClass (custom has none)")
        return None
    cls = _dlopt_class(target)
    if cls is not None:
        return cls
    from hydra.utils import get_object

    hydra_log = logging.getLogger("hydra.utils")
    try:
        hydra_log.disabled = True  # it would report the same error again
        resolved = get_object(target)
    except Exception as error:  # importing a custom module may fail in any way
        problems.add(f"{path}._target_", _import_problem(str(target), error))
        return None
    finally:
        hydra_log.disabled = False
    if not callable(resolved):
        problems.add(f"{path}._target_", f"{target} cannot be called; name a class or a function")
        return None
    return resolved


def check(path: str, node: Node, typed_keys: Sequence[str], problems: Problems) -> None:
    """Check a node's keys and values. Keys that the target does not take are dropped if `_target_` was typed.

    typed_keys are the keys on the command line.
    """
    target = resolve(path, node, problems)
    if target is None:
        return
    _check_arguments(path, target, node, groups.supplied_arguments(path), typed_keys, problems)
    is_wrapper = inspect.isclass(target) and issubclass(target, Wrapper)
    if not (is_wrapper and problems.has_no_problem(f"{path}.name", f"{path}.options")):
        return
    name = node["name"]
    try:
        wrapped = target.resolve(name)
    except LookupError as error:
        problems.add(f"{path}.name", f"{error}{did_you_mean(name, target.names())}")
    except Exception as error:  # importing a custom module may fail in any way
        problems.add(f"{path}.name", _import_problem(name, error))
    else:
        _check_arguments(f"{path}.options", wrapped, node["options"], target.reserved_arguments, (), problems)


def _check_arguments(
    path: str, target: Any, node: Node, supplied: Sequence[str], typed_keys: Sequence[str], problems: Problems
) -> None:
    """Check a node's keys and values against a target's signature; supplied are the arguments that dlopt passes."""
    try:
        signature = read_signature(target)
    except (TypeError, ValueError):
        return  # a builtin without a signature
    parameters = signature.parameters
    names = [name for name in parameters if name not in supplied]
    name = getattr(target, "__name__", str(target))
    for key in [k for k in node if not (k.startswith("_") and k.endswith("_"))]:
        at = f"{path}.{key}"
        if key not in parameters and not signature.takes_any_keyword:
            if f"{path}._target_" in typed_keys and at not in typed_keys:
                problems.notices.append(f"{at} is left out: {name} does not take it")
                del node[key]
            else:
                unknown = f"{name} takes no such key{did_you_mean(key, names)}"
                problems.add(at, describe_renamed_key(at, names) or unknown)
        elif key in supplied:
            problems.add(at, "is passed by dlopt itself; leave it out")
        elif key in parameters and (wrong := describe_mismatch(node[key], parameters[key].hint)):
            problems.add(at, wrong + _suggest_quotes(at, node[key], parameters[key].hint))
    for key in names:
        if parameters[key].required and key not in node:
            problems.add(f"{path}.{key}", f"{name} needs it: add +{path}.{key}=...")


def _suggest_quotes(key: str, value: Any, hint: Any) -> str:
    """Return how to type a text that reads as a number, or nothing."""
    items = value if isinstance(value, list) else [value]
    texts = [str(x) if isinstance(x, int | float) else x for x in items]
    if not texts or texts == items or describe_mismatch(texts if value is items else texts[0], hint):
        return ""
    quoted = ",".join(f"'{x}'" for x in texts)
    text = f"[{quoted}]" if value is items else quoted
    return f'; quote text: "{key}={text}"'


def instantiate(node: Node, **supplied: Any) -> Any:
    """Call a node's target with its keys and the supplied arguments; inner nodes are instantiated first.

    Hydra instantiates trees with classes that are not of dlopt, which takes a millisecond or two.
    """
    if _is_dlopt_tree(node):
        return _instantiate_own(node, **supplied)
    from hydra.utils import instantiate

    return instantiate({**node, "_partial_": True, "_convert_": "all"})(**supplied)


def _is_dlopt_tree(value: Any) -> bool:
    """Return whether all targets in a tree are classes of dlopt, without Hydra's keys such as _partial_."""
    if isinstance(value, dict):
        is_plain = all(key == "_target_" or not key.startswith("_") for key in value)
        is_known = "_target_" not in value or _dlopt_class(value["_target_"]) is not None
        return is_plain and is_known and all(map(_is_dlopt_tree, value.values()))
    if isinstance(value, list):
        return all(map(_is_dlopt_tree, value))
    return value is None or isinstance(value, str | int | float)


def _dlopt_class(name: Any) -> type | None:
    """Return the class of dlopt with this dotted name, if its module has been imported; else None."""
    place, _, last = str(name).rpartition(".")
    module = sys.modules.get(place) if place.startswith("dlopt.") else None
    cls = vars(module).get(last) if module else None
    return cls if inspect.isclass(cls) and cls.__module__ == place else None


def _instantiate_own(value: Any, **supplied: Any) -> Any:
    """Instantiate a tree of dlopt's own classes. Lists and mappings are copies."""
    if isinstance(value, list):
        return [_instantiate_own(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    arguments = {key: _instantiate_inner(key, inner) for key, inner in value.items() if key != "_target_"}
    target = _dlopt_class(value.get("_target_"))
    return arguments if target is None else target(**arguments, **supplied)


def _instantiate_inner(key: str, value: Any) -> Any:
    """Instantiate what a key holds. An OptionError of a component in it names the component's key from here on."""
    try:
        return _instantiate_own(value)
    except OptionError as error:
        raise OptionError(f"{key}.{error.key}", str(error)) from error


def _import_problem(target: str, error: Exception) -> str:
    """Explain why an object could not be imported: its module fails, lacks the name, or does not exist."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    place, _, name = target.rpartition(".")
    module = sys.modules.get(place)
    if module is not None and not hasattr(module, name):
        own = [n for n, x in vars(module).items() if inspect.isclass(x) and x.__module__ == place]
        return f"module {place} has no class {name}{did_you_mean(name, own)}"
    if not isinstance(cause, ImportError):
        return f"importing {target} fails: {locate_error(cause)}"
    return f"cannot import {target} ({cause}); modules are looked for in Python's path, then in the working directory"

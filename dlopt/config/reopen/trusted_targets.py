"""Check that the configuration of a run names only classes of dlopt and torch, so that no other code executes.

A name is judged by the object that it leads to, in modules that are already imported: importing another module would
execute it. The prefix of a name proves nothing: torch.nn.modules.module.torch.hub.load begins with torch.nn.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from dlopt.base.data import Data
from dlopt.base.wrapper import Wrapper
from dlopt.config.compose import groups
from dlopt.config.compose.static_config import read_yaml_or_empty
from dlopt.config.problems import Problems
from dlopt.config.schema.signature import format_value
from dlopt.storage.safe_read import to_printable

TRUST_ADVICE = "add --trust if you trust it"
REMEDY = f"opening a run executes no code of its own; {TRUST_ADVICE}"
MAX_COUNT = 10**6
"""Largest number of layers, iterations or features for a class of torch: more could exhaust time or memory."""


def check(config: Mapping[str, Any], problems: Problems) -> None:
    """Add a problem for each name in a plain configuration that is not a class of dlopt or torch."""
    for path, node in _iter_tree("", config):
        if not isinstance(node, str):
            _check_node(path, node, problems)
        elif "${" in node:
            wrong = f"refers to another value, {_quote_short(node)}, which could be of the environment"
            problems.add(path, f"{wrong}; {REMEDY}")


def find_class(name: Any) -> type | None:
    """Return the class with this name, if it is one of a config group's module, of torch.nn or of torch.optim."""
    if not isinstance(name, str):
        return None
    *place, last = name.split(".")
    cls = vars(module).get(last) if (module := _group_module(place) or _torch_module(place)) else None
    if not inspect.isclass(cls):
        return None
    if place[0] == "dlopt":
        return cls if cls.__module__ == ".".join(place) else None
    home = f"{cls.__module__}."
    is_module = issubclass(cls, nn.Module) and home.startswith("torch.nn.modules.")
    is_optimizer = issubclass(cls, torch.optim.Optimizer) and home.startswith("torch.optim.")
    return cls if is_module or is_optimizer else None


def _group_module(place: list[str]) -> ModuleType | None:
    """Return the module dlopt.<group>.<module>, if dlopt has such a file."""
    if len(place) != 3 or place[0] != "dlopt" or place[1] not in groups.list_groups():
        return None
    modules = {file.stem for file in (Path(__file__).parents[2] / place[1]).glob("*.py")}
    return import_module(".".join(place)) if place[2] in modules else None


def _torch_module(place: list[str]) -> ModuleType | None:
    """Return a module of torch by its own name, if it has been imported."""
    if not place or place[0] != "torch":
        return None
    module: Any = torch
    for i, name in enumerate(place[1:], start=2):
        path = ".".join(place[:i])
        module = vars(module).get(name, sys.modules.get(path))
        if not (isinstance(module, ModuleType) and module.__name__ == path):
            return None
    return module


def _iter_tree(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every mapping, text and key of a tree, with its dotted path."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield _join(path, key), str(key)
            yield from _iter_tree(_join(path, key), inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _iter_tree(f"{path}.{i}", inner)
    elif isinstance(value, str):
        yield path, value


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _check_node(path: str, node: Mapping[str, Any], problems: Problems) -> None:
    """Check the class that a mapping names, and the keys that it would get."""
    for key in node:
        if key.startswith("_") and key.endswith("_") and key != "_target_":
            problems.add(_join(path, key), f"changes how a component is built; {REMEDY}")
    if "_target_" not in node or node["_target_"] == "???":
        return
    cls = find_class(node["_target_"])
    if cls is None:
        wrong = f"names {_quote_short(node['_target_'])}, which is not a class of dlopt, torch.nn or torch.optim"
        problems.add(_join(path, "_target_"), f"{wrong}; {REMEDY}")
    elif issubclass(cls, (nn.Module, torch.optim.Optimizer)):
        _check_counts(path, node, problems)
    elif issubclass(cls, Wrapper):
        _check_counts(_join(path, "options"), node.get("options"), problems)
        name = node.get("name")
        if name not in cls.names() and find_class(name) is None:
            problems.add(_join(path, "name"), f"names {_quote_short(name)}, which is not a class of torch; {REMEDY}")
    elif issubclass(cls, Data):
        _check_data(path, cls, node, problems)


def _check_counts(path: str, value: Any, problems: Problems) -> None:
    """Check the size of numbers in the arguments of classes that do not check them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_counts(f"{path}.{key}", inner, problems)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_counts(f"{path}.{i}", inner, problems)
    elif isinstance(value, int) and abs(value) > MAX_COUNT:
        problems.add(path, f"must be at most {MAX_COUNT:,} in a run that is not trusted, got {value:,}; add --trust")


def _check_data(path: str, cls: type[Data], node: Mapping[str, Any], problems: Problems) -> None:
    """Check that data would not be written to a path, or downloaded from an address, that the run names."""
    if cls.keeps_copy and node.get("path") is not None:
        problems.add(_join(path, "path"), f"names a place to write to, {_quote_short(node['path'])}; {REMEDY}")
    option = cls.__module__.rpartition(".")[2]
    url = read_yaml_or_empty(groups.CONF / "data" / f"{option}.yaml").get("url")
    if node.get("url") not in (None, url):
        wrong = f"names an address to download from, {_quote_short(node['url'])}, not {url}"
        problems.add(_join(path, "url"), f"{wrong}; {REMEDY}")


def _quote_short(value: Any) -> str:
    """Return a value in quotes, shortened to fit a line."""
    text = to_printable(format_value(value))
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Check which classes the configuration of a run may name: those of dlopt and torch, so that no other code executes.

A name is judged by its object, and only modules that dlopt has already imported are inspected: importing any other one
would execute it. The prefix of a name proves nothing: torch.nn.modules.module.torch.hub.load begins with torch.nn.
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
    """Add a problem for everything that a plain configuration names besides classes of dlopt and torch."""
    for path, node in _iter_tree("", config):
        if isinstance(node, str):
            if "${" in node:
                problems.add(
                    path, f"refers to another value, {_quote_short(node)}, which could be of the environment; {REMEDY}"
                )
        else:
            _check_node(path, node, problems)


def find_class(name: Any) -> type | None:
    """Return the class of a name, if it is one of a config group's module, of torch.nn or of torch.optim; else None."""
    if not isinstance(name, str):
        return None
    *place, last = name.split(".")
    found = vars(module).get(last) if (module := _group_module(place) or _torch_module(place)) else None
    if not inspect.isclass(found):
        return None
    if place[0] == "dlopt":
        return found if found.__module__ == ".".join(place) else None
    home = f"{found.__module__}."
    of_torch = (issubclass(found, nn.Module) and home.startswith("torch.nn.modules.")) or (
        issubclass(found, torch.optim.Optimizer) and home.startswith("torch.optim.")
    )
    return found if of_torch else None


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
    found: Any = torch
    for i, name in enumerate(place[1:], start=2):
        path = ".".join(place[:i])
        found = vars(found).get(name, sys.modules.get(path))
        if not (isinstance(found, ModuleType) and found.__name__ == path):
            return None
    return found


def _iter_tree(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every mapping, text and key of a tree, with its dotted path."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            at = f"{path}.{key}" if path else str(key)
            yield at, str(key)
            yield from _iter_tree(at, inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _iter_tree(f"{path}.{i}", inner)
    elif isinstance(value, str):
        yield path, value


def _check_node(path: str, node: Mapping[str, Any], problems: Problems) -> None:
    """Check the class that a mapping names, and what it would do with the mapping's keys."""

    def at(key: str) -> str:
        return f"{path}.{key}" if path else key

    for key in node:
        if key.startswith("_") and key.endswith("_") and key != "_target_":
            problems.add(at(key), f"changes how a part is made; {REMEDY}")
    if "_target_" not in node or node["_target_"] == "???":
        return
    made = find_class(node["_target_"])
    if made is None:
        problems.add(
            at("_target_"),
            f"names {_quote_short(node['_target_'])}, which is no part of dlopt, torch.nn or torch.optim; {REMEDY}",
        )
    elif issubclass(made, (nn.Module, torch.optim.Optimizer)):
        _check_counts(path, node, problems)
    elif issubclass(made, Wrapper):
        _check_counts(at("options"), node.get("options"), problems)
        if node.get("name") not in made.names() and find_class(node.get("name")) is None:
            problems.add(at("name"), f"names {_quote_short(node.get('name'))}, which is no part of torch; {REMEDY}")
    elif issubclass(made, Data):
        _check_data(at, made, node, problems)


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


def _check_data(at: Any, made: type[Data], node: Mapping[str, Any], problems: Problems) -> None:
    """Check that data would not be written to a path, or downloaded from an address, that the run names."""
    if made.keeps_copy and node.get("path") is not None:
        problems.add(at("path"), f"names a place to write to, {_quote_short(node['path'])}; {REMEDY}")
    option = made.__module__.rpartition(".")[2]
    own = read_yaml_or_empty(groups.CONF / "data" / f"{option}.yaml").get("url")
    if node.get("url") not in (None, own):
        problems.add(at("url"), f"names an address to download from, {_quote_short(node['url'])}, not {own}; {REMEDY}")


def _quote_short(value: Any) -> str:
    """Return a value in quotes, shortened to fit a line."""
    text = to_printable(format_value(value))
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Runs in lanes: which may share their arithmetic, and what is one lane's part of a shared tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from dlopt.base import dotted_fields
from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout, map_tied_names
from dlopt.training.experiment import Experiment, Settings


def check_compatible(experiments: Sequence[Experiment]) -> None:
    """Raise ValueError where experiments cannot share their arithmetic."""
    first = experiments[0]
    for other in experiments[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "network": (first.network, other.network),
            "settings": (_comparable_settings(first.settings), _comparable_settings(other.settings)),
            "data": tuple(  # type: ignore[dict-item]
                [len(e.train), None if e.validation is None else len(e.validation), len(e.test), e.drop_last]
                for e in (first, other)
            ),
            "schedules": (list(first.schedules), list(other.schedules)),
        }
        for name, group in declared_groups().items():
            if group.lanes is not None and name not in first.network:
                a, b = (_comparable_component(e.get_component(name), group.lanes) for e in (first, other))
                pairs[name] = (a, b)
        for name, (a, b) in pairs.items():
            if a != b:
                raise ValueError(f"runs in lanes must agree in {name}: {a} and {b}")
        _agree_in_counts(first.optimizer, other.optimizer)
        _agree_in_constants(first, other)
    if len(experiments) > 1 and not first.optimizer.lanes:
        raise ValueError(f"{type(first.optimizer).__name__} cannot train runs in lanes")


def _comparable_settings(settings: Settings) -> Settings:
    """The settings without those that may differ: which examples, of as many, and which random numbers."""
    validation = dataclasses.replace(settings.validation, fold=None)
    return dataclasses.replace(settings, seed=0, name=None, validation=validation)


def _comparable_component(component: Any, by: str) -> Any:
    """Return a component, or components by their keys, or instead the class of each."""
    if isinstance(component, Mapping):
        return [(name, _comparable_component(one, by)) for name, one in component.items()]
    return type(component) if by == "class" else component


def _agree_in_counts(one: Any, other: Any) -> None:
    """Lanes go through one sequence of operations: what a rule declares to be a whole number cannot be a column."""
    hints = get_type_hints(type(one)) if dotted_fields.list_fields(one) else {}
    for name in dotted_fields.list_fields(one):
        a, b = getattr(one, name), getattr(other, name)
        if type(a) is type(b) and dotted_fields.list_fields(a):
            _agree_in_counts(a, b)
        elif int in (hints[name], *get_args(hints[name])) and a != b:
            raise ValueError(f"runs in lanes must agree in {name}: {a} and {b}")


def _agree_in_constants(first: Experiment, other: Experiment) -> None:
    """Lanes share the module itself: what in it is not trained must be the same, and so must running statistics be."""
    if Layout.of(first.model) != Layout.of(other.model):
        raise ValueError("runs in lanes must agree in network: other parameters are trained")
    own = dict(first.model.named_parameters())
    trainable = {name for name, one in map_tied_names(first.model).items() if own[one].requires_grad}
    mine, others = first.model.state_dict(), other.model.state_dict()
    for name in mine.keys() - trainable:
        if not torch.equal(mine[name], others[name]):
            raise ValueError(f"runs in lanes must agree in network: {name} is not trained, and differs")


def find_differing_fields(parts: Sequence[Any]) -> dict[str, list[float]]:
    """The fields in which parts of one class differ, those of parts inside too (base.lr), with each part's value."""
    found: dict[str, list[float]] = {}
    for name in dotted_fields.list_fields(parts[0]):
        values = [getattr(part, name) for part in parts]
        if dotted_fields.list_fields(values[0]) and len({type(v) for v in values}) == 1:
            found |= {f"{name}.{inner}": column for inner, column in find_differing_fields(values).items()}
        elif any(v != values[0] for v in values):
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
                raise ValueError(f"runs in lanes must agree in {name}: {values}")
            found[name] = values
    return found


def select_columns(part: Any, stay: Tensor) -> Any:
    """A part with its columns for these lanes alone."""
    return dotted_fields.replace_fields(part, {path: column[stay] for path, column in _columns(part).items()})


def _columns(part: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in dotted_fields.list_fields(part):
        v = getattr(part, name)
        found |= {name: v} if isinstance(v, Tensor) else {f"{name}.{k}": column for k, column in _columns(v).items()}
    return found


def tree_map(f: Callable[[Any], Any], x: Any) -> Any:
    """f on every leaf of nested tuples and dicts."""
    if isinstance(x, tuple):
        return type(x)(*(tree_map(f, v) for v in x)) if hasattr(x, "_fields") else tuple(tree_map(f, v) for v in x)
    if isinstance(x, dict):
        return {k: tree_map(f, v) for k, v in x.items()}
    return f(x)

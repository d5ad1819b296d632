"""Runs in lanes: which runs can share their arithmetic, and the parts of lanes in shared tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from dlopt.base import dotted_fields
from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout, map_tied_names
from dlopt.training.experiment import Experiment, Settings


def check_compatible(experiments: Sequence[Experiment]) -> None:
    """Raise ValueError if experiments cannot share their arithmetic."""
    first = experiments[0]
    for other in experiments[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "network": (first.network, other.network),
            "settings": (_comparable_settings(first.settings), _comparable_settings(other.settings)),
            "data": tuple(  # type: ignore[dict-item]
                [len(e.train), None if e.validation is None else len(e.validation), len(e.test), e.drop_last, e.order]
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
    """Return the settings without those that may differ: seed, name and fold."""
    validation = dataclasses.replace(settings.validation, fold=None)
    return dataclasses.replace(settings, seed=0, name=None, validation=validation)


def _comparable_component(component: Any, by: str) -> Any:
    """Return a component, or components by their keys, or the class of each if only classes must agree."""
    if isinstance(component, Mapping):
        return [(name, _comparable_component(one, by)) for name, one in component.items()]
    return type(component) if by == "class" else component


def _agree_in_counts(one: Any, other: Any) -> None:
    """Raise ValueError if integers differ: they determine which operations are done, so they cannot be columns."""
    hints = get_type_hints(type(one)) if dotted_fields.list_fields(one) else {}
    for name in dotted_fields.list_fields(one):
        a, b = getattr(one, name), getattr(other, name)
        if type(a) is type(b) and dotted_fields.list_fields(a):
            _agree_in_counts(a, b)
        elif int in (hints[name], *get_args(hints[name])) and a != b:
            raise ValueError(f"runs in lanes must agree in {name}: {a} and {b}")


def _agree_in_constants(first: Experiment, other: Experiment) -> None:
    """Raise ValueError if frozen parameters or buffers differ: lanes share the module itself."""
    if Layout.of(first.model) != Layout.of(other.model):
        raise ValueError("runs in lanes must agree in network: other parameters are trained")
    own = dict(first.model.named_parameters())
    trainable = {name for name, one in map_tied_names(first.model).items() if own[one].requires_grad}
    mine, others = first.model.state_dict(), other.model.state_dict()
    for name in mine.keys() - trainable:
        if not torch.equal(mine[name], others[name]):
            raise ValueError(f"runs in lanes must agree in network: {name} is not trained, and differs")


def find_differing_fields(components: Sequence[Any], *, vectors: bool = False) -> dict[str, list[Any]]:
    """Return the fields, nested ones too (base.lr), in which components of one class differ, with all their values.

    The values are numbers, or with `vectors` also lists of as many numbers each.
    """
    differing: dict[str, list[Any]] = {}
    for name in dotted_fields.list_fields(components[0]):
        values = [getattr(component, name) for component in components]
        if dotted_fields.list_fields(values[0]) and len({type(v) for v in values}) == 1:
            differing |= {f"{name}.{inner}": column for inner, column in find_differing_fields(values).items()}
        elif any(v != values[0] for v in values):
            are_vectors = vectors and all(isinstance(v, list) and len(v) == len(values[0]) for v in values)
            numbers = [x for v in values for x in v] if are_vectors else values
            if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers):
                raise ValueError(f"runs in lanes must agree in {name}: {values}")
            differing[name] = values
    return differing


def select_columns(component: Any, stay: Tensor) -> Any:
    """Return a component with only these lanes in its columns."""
    columns: dict[str, Any] = {}
    for name in dotted_fields.list_fields(component):
        value = getattr(component, name)
        selected = value[stay] if isinstance(value, Tensor) else select_columns(value, stay)
        if selected is not value:
            columns[name] = selected
    return dotted_fields.replace_fields(component, columns)


def select_lanes(x: Any, stay: Tensor, count: int) -> Any:
    """Return nested tuples, lists and dicts with only these of `count` lanes in tensors of shape (count, ...)."""
    if isinstance(x, dict):
        return {k: select_lanes(v, stay, count) for k, v in x.items()}
    if isinstance(x, (tuple, list)):
        items = (select_lanes(v, stay, count) for v in x)
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    return x[stay] if isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == count else x

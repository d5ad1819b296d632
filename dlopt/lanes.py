"""Runs in lanes: which may share their arithmetic, and what is one lane's part of a shared tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dlopt.experiment import Experiment


def agree(experiments: Sequence[Experiment]) -> None:
    """Raise ValueError where experiments cannot share their arithmetic."""
    first = experiments[0]
    for other in experiments[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "network": (repr(first.model), repr(other.model)),
            "settings": (
                dataclasses.replace(first.settings, seed=0, name=None),
                dataclasses.replace(other.settings, seed=0, name=None),
            ),
            "data": tuple(  # type: ignore[dict-item]
                [len(e.train), None if e.validation is None else len(e.validation), len(e.test), e.drop_last]
                for e in (first, other)
            ),
            "averaging": (first.averaging, other.averaging),
            "augmentation": (dict(first.augmentation), dict(other.augmentation)),
            "diagnostic": (dict(first.diagnostic), dict(other.diagnostic)),
            "regularization": (list(first.regularization), list(other.regularization)),
        }
        for name in ("optimizer", "schedule", "loss"):
            pairs[name] = (type(getattr(first, name)), type(getattr(other, name)))
        for name, (a, b) in pairs.items():
            if a != b:
                raise ValueError(f"runs in lanes must agree in {name}: {a} and {b}")
    if len(experiments) > 1 and not first.optimizer.lanes:
        raise ValueError(f"{type(first.optimizer).__name__} cannot train runs in lanes")


def differing(parts: Sequence[Any]) -> dict[str, list[float]]:
    """The fields in which parts of one class differ, with each part's value."""
    found = {}
    for f in dataclasses.fields(parts[0]):
        values = [getattr(part, f.name) for part in parts]
        if any(v != values[0] for v in values):
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
                raise ValueError(f"runs in lanes must agree in {f.name}: {values}")
            found[f.name] = values
    return found


def kept_columns(part: Any, stay: Tensor) -> Any:
    columns = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return dataclasses.replace(part, **{k: v[stay] for k, v in columns.items() if isinstance(v, Tensor)})


def mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """f on every leaf of nested tuples and dicts."""
    if isinstance(x, tuple):
        return type(x)(*(mapped(f, v) for v in x)) if hasattr(x, "_fields") else tuple(mapped(f, v) for v in x)
    if isinstance(x, dict):
        return {k: mapped(f, v) for k, v in x.items()}
    return f(x)

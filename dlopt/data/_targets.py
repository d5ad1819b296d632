"""Targets of people's own data: whether they are classes or numbers, and the test split that is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlopt import prng
from dlopt.base import splits
from dlopt.base.data import Kind, Split
from dlopt.errors import Mistake, listed
from dlopt.ranges import Range

Share = Annotated[float, Range(gt=0, lt=1)]
Chosen = Literal["auto", "classes", "numbers"]

_KEY = prng.key(0, "test")
"""Not the run's: runs with different seeds are judged by one test split."""


def cut(targets: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The rows for training and those for the test, drawn at random, the same ones each time; classes in proportion."""
    count = len(targets)
    train, test = splits.hold_out(Split(targets, targets), fraction, _KEY)
    if test is None or test.rows is None or train.rows is None or not len(train):
        raise Mistake("test_fraction", f"{fraction:g} of {count} examples is {round(fraction * count)}; take another")
    return train.rows, test.rows


def kind(values: np.ndarray, chosen: Chosen) -> Kind:
    """What targets are, if it is not chosen: floats are numbers; integers, booleans and text are classes."""
    if chosen == "numbers" and values.dtype.kind not in "biuf":
        raise Mistake("kind", f"numbers cannot be made of a target of text, such as {str(values.flat[0])!r}")
    if chosen != "auto":
        return chosen
    return "numbers" if values.dtype.kind == "f" else "classes"


def classes(values: np.ndarray, chosen: Chosen) -> tuple[Tensor, tuple[str, ...]]:
    """The class of each value, (N,) int64, from 0 in sorted order, and the classes' names."""
    found, codes = np.unique(values, return_inverse=True)
    names = tuple(map(_called, found.tolist()))
    if len(names) < 2:
        raise Mistake("target", f"every example is of one class, {', '.join(names)}; there is nothing to tell apart")
    if chosen == "auto" and 2 * len(names) > len(values):
        raise Mistake(
            "kind",
            f"auto takes the target for classes, but it has {len(names)} different values in {len(values)} examples: "
            "say data.kind=numbers, or data.kind=classes",
        )
    return torch.from_numpy(codes.reshape(-1).astype(np.int64)), names


def known_classes(values: np.ndarray, names: Sequence[str]) -> Tensor:
    """The class of each value, (N,) int64, by the names that an earlier file gave them."""
    code = {name: i for i, name in enumerate(names)}
    found = [_called(v) for v in values.tolist()]
    new = list(dict.fromkeys(name for name in found if name not in code))
    if new:
        raise Mistake("target", f"the run knows no class {listed(new)}; it was trained on {listed(names)}")
    return torch.tensor([code[name] for name in found])


def _called(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def numbers(values: np.ndarray) -> Tensor:
    """Targets (N, outputs) float32 of values (N,) or (N, outputs)."""
    return torch.from_numpy(values.astype(np.float32).reshape(len(values), -1))

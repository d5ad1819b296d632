"""Targets of people's own data: whether they are classes or numbers, and the test split that is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlopt import prng
from dlopt.base import splits
from dlopt.base.data import Split, TargetKind
from dlopt.errors import OptionError, join_truncated
from dlopt.ranges import Range

TestFraction = Annotated[float, Range(gt=0, lt=1)]
TargetKindOption = Literal["auto", "classes", "numbers"]

_KEY = prng.key(0, "test")
"""Not the run's: runs with different seeds are judged by one test split."""


def split_test(targets: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The rows for training and those for the test, drawn at random, the same ones each time; classes in proportion."""
    count = len(targets)
    train, test = splits.hold_out(Split(targets, targets), fraction, _KEY)
    if test is None or test.rows is None or train.rows is None or not len(train):
        raise OptionError(
            "test_fraction", f"{fraction:g} of {count} examples is {round(fraction * count)}; take another"
        )
    return train.rows, test.rows


def infer_kind(values: np.ndarray, chosen: TargetKindOption) -> TargetKind:
    """What targets are, if it is not chosen: floats are numbers; integers, booleans and text are classes."""
    if chosen == "numbers" and values.dtype.kind not in "biuf":
        raise OptionError("kind", f"numbers cannot be made of a target of text, such as {str(values.flat[0])!r}")
    if chosen != "auto":
        return chosen
    return "numbers" if values.dtype.kind == "f" else "classes"


def encode_classes(values: np.ndarray, chosen: TargetKindOption) -> tuple[Tensor, tuple[str, ...]]:
    """The class of each value, (N,) int64, from 0 in sorted order, and the classes' names."""
    found, codes = np.unique(values, return_inverse=True)
    names = tuple(map(_class_name, found.tolist()))
    if len(names) < 2:
        raise OptionError(
            "target", f"every example is of one class, {', '.join(names)}; there is nothing to tell apart"
        )
    if chosen == "auto" and 2 * len(names) > len(values):
        raise OptionError(
            "kind",
            f"auto takes the target for classes, but it has {len(names)} different values in {len(values)} examples: "
            "say data.kind=numbers, or data.kind=classes",
        )
    return torch.from_numpy(codes.reshape(-1).astype(np.int64)), names


def encode_known_classes(values: np.ndarray, names: Sequence[str]) -> Tensor:
    """The class of each value, (N,) int64, by the names that an earlier file gave them."""
    code = {name: i for i, name in enumerate(names)}
    found = [_class_name(v) for v in values.tolist()]
    new = list(dict.fromkeys(name for name in found if name not in code))
    if new:
        raise OptionError(
            "target", f"the run knows no class {join_truncated(new)}; it was trained on {join_truncated(names)}"
        )
    return torch.tensor([code[name] for name in found])


def _class_name(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def encode_numbers(values: np.ndarray) -> Tensor:
    """Targets (N, outputs) float32 of values (N,) or (N, outputs)."""
    return torch.from_numpy(values.astype(np.float32).reshape(len(values), -1))

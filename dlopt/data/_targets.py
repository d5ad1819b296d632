"""Targets of your own data: their kind, their encoding, and the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""Not the key of the run: runs with different seeds share one test split."""


def split_test(
    targets: Tensor, fraction: float, groups: Tensor | None = None, times: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split rows into training and test: a random subset, stratified by class, and the same each time.

    With groups, the test is a random subset of them; with times, it is the latest rows.
    """
    whole = Split(targets, targets)
    train, test = splits.hold_out(whole, fraction, _KEY, groups, times)
    if test is None or test.rows is None or train.rows is None or not len(train):
        count, noun = splits.count_units(whole, groups, times)
        size = f"{fraction:g} of {count} {noun} is {round(fraction * count)}"
        raise OptionError("test_fraction", f"{size}; both splits need {noun}")
    return train.rows, test.rows


def fit_standardization(train: Split) -> dict[str, float]:
    """Return mean and standard deviation of targets that are to be standardized: those in float64."""
    y = train.targets if train.rows is None else train.targets[train.rows]
    if y.dtype != torch.float64:
        return {}
    return {"middle": y.mean().item(), "scale": y.std(correction=0).item() if y.min() < y.max() else 1.0}


def standardize(targets: Tensor, encoding: Mapping[str, Any]) -> Tensor:
    """Return float64 targets standardized by the result of `fit_standardization`, and others as they are."""
    if targets.dtype != torch.float64:
        return targets
    return ((targets - encoding["middle"]) / encoding["scale"]).float()


def infer_kind(values: np.ndarray, option: TargetKindOption) -> TargetKind:
    """Return the kind of targets. auto: floats are numbers; integers, booleans and text are classes."""
    if option == "numbers" and values.dtype.kind not in "biuf":
        raise OptionError("kind", f"numbers needs a numeric target, got text such as {str(values.flat[0])!r}")
    if option != "auto":
        return option
    return "numbers" if values.dtype.kind == "f" else "classes"


def encode_classes(values: np.ndarray, option: TargetKindOption) -> tuple[Tensor, tuple[str, ...]]:
    """Return the class of each value, (N,) int64, counted from 0 in sorted order, and the names of the classes."""
    classes, codes = np.unique(values, return_inverse=True)
    names = tuple(map(_class_name, classes.tolist()))
    if len(names) < 2:
        raise OptionError("target", f"all examples are of one class, {', '.join(names)}; two or more are needed")
    if option == "auto" and 2 * len(names) > len(values):
        count = f"the target has {len(names)} different values in {len(values)} examples"
        raise OptionError("kind", f"{count}; set data.kind=numbers or data.kind=classes")
    return torch.from_numpy(codes.reshape(-1).astype(np.int64)), names


def encode_known_classes(values: np.ndarray, names: Sequence[str]) -> Tensor:
    """Return the class of each value, (N,) int64, by the class names of an earlier file."""
    code = {name: i for i, name in enumerate(names)}
    labels = [_class_name(v) for v in values.tolist()]
    new = list(dict.fromkeys(name for name in labels if name not in code))
    if new:
        trained = join_truncated(names)
        raise OptionError("target", f"unknown classes {join_truncated(new)}; the run was trained on {trained}")
    return torch.tensor([code[name] for name in labels])


def _class_name(value: Any) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def is_one_hot(targets: Tensor) -> bool:
    """Return whether targets are floats of which each row has one 1 and is 0 elsewhere, for two outputs or more."""
    if not targets.is_floating_point() or targets.ndim != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())


def make_placeholder(shape: tuple[int, ...], saved: Mapping[str, Any]) -> np.ndarray:
    """Return targets for inputs without any: the first class, or zeros."""
    classes = saved.get("classes")
    return np.full(shape, classes[0]) if classes else np.zeros((*shape, saved.get("outputs", 1)))


def make_zeros(count: int, outputs: int, *, is_classes: bool) -> Tensor:
    """Return targets for inputs without any, which nothing reads: the first class, or zeros."""
    return torch.zeros(count, dtype=torch.int64) if is_classes else torch.zeros(count, outputs)

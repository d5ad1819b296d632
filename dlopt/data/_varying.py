"""Series of different lengths in arrays: NaN after their end, an array of their lengths, or a list of series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dlopt.base.mapped_inputs import Inputs, MappedInputs
from dlopt.errors import OptionError
from dlopt.storage import memory
from dlopt.storage.mapped_array import MappedArray


def to_objects(series: Sequence[Any]) -> np.ndarray:
    """Return a list of series as an array of objects, (N,)."""
    array = np.empty(len(series), object)
    for i, x in enumerate(series):
        array[i] = np.asarray(x)
    return array


def fill_padding(
    arrays: Mapping[str, Any], names: Sequence[str], lengths: str | None, channels: str, known: int | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return arrays without NaN as padding, and which steps, (N, T), are no padding, by name.

    names      the arrays of inputs, (N, channels, length) or in the order of `channels`, or a list of series as objects
    lengths    name of the array of lengths of the first one; that of NAME_test ends in _test, too
    known      the length T to which the series of a run are padded, if it is known

    Without padding, and for other arrays than series, the arrays are returned unchanged. Padding is filled with numbers
    of another series at the same step, so it changes no range. Raises OptionError for series that cannot be used.
    """
    series: dict[str, np.ndarray] = {}
    steps: dict[str, np.ndarray] = {}
    is_varying = known is not None
    for name in names:
        x = arrays[name]
        if isinstance(x, MappedArray) and lengths is None:
            return dict(arrays), {}  # a mapped array is not changed
        is_list = x.dtype == object
        x = _pad_list(x, name, channels) if is_list else x
        if isinstance(x, MappedArray) or x.ndim != 3 or channels == "none":
            if lengths is not None:
                needed = "is for series (N, channels, length) in memory, with data.channels=first or last"
                raise OptionError("lengths", f"{needed}; {name} has shape {x.shape}")
            return dict(arrays), {}
        series[name] = np.moveaxis(x, -1, 1) if channels == "last" else x
        key = None if lengths is None else lengths + name.removeprefix(names[0])
        if key is not None and key not in arrays:
            raise OptionError("lengths", f"there is no array '{key}', for the lengths of {name}")
        steps[name] = _mask_nan(series[name], name) if key is None else _mask_lengths(series[name], arrays[key], key)
        is_varying |= is_list or not steps[name].all()
    if not is_varying:
        return dict(arrays), {}
    longest = max(x.shape[-1] for x in series.values())
    if known is not None and longest > known:
        wrong = f"has series of up to {longest} steps; the run was trained on up to {known}"
        raise OptionError("inputs", f"{names[0]} {wrong}")
    filled = dict(arrays)
    for name, x in series.items():
        missing = (known or longest) - x.shape[-1]
        steps[name] = np.pad(steps[name], ((0, 0), (0, missing)))
        longer = np.pad(x, ((0, 0), (0, 0), (0, missing)))
        others = longer[steps[name].argmax(0), :, np.arange(longer.shape[-1])].T  # of the first series with this step
        longer = np.where(steps[name][:, None], longer, np.where(steps[name].any(0), others, 0).astype(x.dtype))
        filled[name] = np.moveaxis(longer, 1, -1) if channels == "last" else longer
    return filled, steps


def mark_padding(inputs: Inputs, steps: np.ndarray | None) -> Inputs:
    """Return series, (N, channels, T), with NaN at all but these steps, (N, T); the same inputs if None are given."""
    if steps is None or isinstance(inputs, MappedInputs):
        return inputs
    return torch.where(torch.from_numpy(steps)[:, None], inputs, math.nan)


def _pad_list(objects: np.ndarray, name: str, channels: str) -> np.ndarray:
    """Return series, each (length,), (channels, length) or (length, channels), as one array padded with NaN."""
    if channels == "none":
        raise OptionError("channels", f"{name} is a list of series: set data.channels=first or last")
    last = channels == "last"
    series: list[np.ndarray] = []
    for row, given in enumerate(objects):
        x = given[None] if given.ndim == 1 else given.T if last else given
        if x.dtype.kind not in "biuf" or x.ndim != 2:
            found = "text or objects" if x.dtype.kind not in "biuf" else f"shape {given.shape}"
            order = "(length, channels)" if last else "(channels, length)"
            raise OptionError(
                "inputs", f"{name}: series {row} (from 0) has {found}; it must be numbers (length,) or {order}"
            )
        if x.shape[1] == 0:
            raise OptionError("inputs", f"{name}: series {row} (from 0) has length zero; leave it out")
        if x.shape[0] != (series[0] if series else x).shape[0]:
            counts = f"{x.shape[0]} channels, the first one {series[0].shape[0]}"
            raise OptionError("inputs", f"{name}: series {row} (from 0) has {counts}; they must be equal")
        series.append(x)
    if not series:
        raise OptionError("inputs", f"{name} is empty")
    shape = (len(series), series[0].shape[0], max(x.shape[1] for x in series))
    try:
        memory.check(4 * math.prod(shape), name)
    except memory.NotEnoughMemoryError as error:
        raise OptionError("inputs", str(error)) from error
    padded = np.full(shape, math.nan, np.float32)
    for row, x in zip(padded, series, strict=True):
        row[:, : x.shape[1]] = x
    for row, x in enumerate(series):
        if not np.isfinite(x).all():
            raise OptionError("inputs", f"{name}: series {row} (from 0) holds a number that is not finite")
    return np.moveaxis(padded, 1, -1) if last else padded


def _mask_nan(x: np.ndarray, name: str) -> np.ndarray:
    """Return which steps, (N, T), of series (N, channels, T) are not NaN. Raise OptionError for NaN within a series."""
    if x.dtype.kind != "f" or x.size == 0 or not np.isnan(x.min()):
        return np.ones((len(x), x.shape[-1]), bool)
    missing = np.isnan(x)
    steps: np.ndarray = np.logical_not(missing.all(1))
    empty = ~steps[:, 0]
    if empty.any():
        row = int(empty.argmax())
        has = "begins with" if steps[row].any() else "has only"
        raise OptionError(
            "inputs", f"{name}: row {row} (from 0) {has} NaN; padding follows a series of one step or more"
        )
    within = missing & (steps[:, None] | np.logical_or.accumulate(steps[:, ::-1], 1)[:, None, ::-1])
    if within.any():
        row, channel, step = (int(i) for i in np.argwhere(within)[0])
        place = f"{name}: NaN in row {row}, channel {channel}, step {step} (from 0) lies within a series"
        raise OptionError("inputs", f"{place}; NaN in all channels up to the end is padding, any other is refused")
    return steps


def _mask_lengths(x: np.ndarray, lengths: np.ndarray, name: str) -> np.ndarray:
    """Return which steps, (N, T), of series (N, channels, T) are within these lengths."""
    if lengths.shape != (len(x),) or lengths.dtype.kind not in "iu":
        found = f"{lengths.dtype} of shape {lengths.shape}"
        raise OptionError("lengths", f"{name} must hold whole numbers of shape ({len(x)},), got {found}")
    wrong = (lengths < 1) | (lengths > x.shape[-1])
    if wrong.any():
        row = int(wrong.argmax())
        raise OptionError("lengths", f"{name} has {lengths[row]} in row {row} (from 0); it must be 1 to {x.shape[-1]}")
    return np.arange(x.shape[-1]) < lengths[:, None]

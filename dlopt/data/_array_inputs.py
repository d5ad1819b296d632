"""Inputs of the arrays of a user: float32 in memory, or mapped; and the numbers that are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch

from dlopt.base.mapped_inputs import Inputs, MappedInputs
from dlopt.errors import OptionError
from dlopt.storage.mapped_array import MappedArray

Channels = Literal["first", "last", "none"]
Array = np.ndarray | MappedArray

EXACT = 2**24
"""Integers up to here are all different in float32."""
ROUNDING = 1e-3
"""Largest error of float32, as a part of the range of the numbers: below, a thousand levels stay different."""
CHUNK_BYTES = 1 << 24
"""Bytes of a mapped array that are checked at once."""


def make_inputs(array: Array, name: str, channels: Channels, *, check_range: bool) -> Inputs:
    """Return an array as inputs; a mapped one stays in its file. Raise OptionError if float32 does not suit it.

    channels is the position of the dimension of channels. check_range: also refuse numbers that differ by little more
    than float32 rounds.
    """
    if array.dtype.kind not in "biuf":
        raise OptionError("inputs", f"{name} must hold numbers, got {name_dtype(array.dtype)}")
    if not 2 <= len(array.shape) <= 4 or 0 in array.shape:
        shapes = "(N, features), (N, channels, length) or (N, channels, height, width)"
        raise OptionError("inputs", f"{name} has shape {array.shape}; it must be {shapes}")
    for first, chunk in _iter_chunks(array):
        x = _check(chunk, name, channels, first)
    if check_range:
        check_rounding(array, name, "inputs", last=channels == "last")
    if isinstance(array, MappedArray):
        return MappedInputs(array, partial(_convert, channels=channels))
    return _scale(x, array.dtype, channels)


def _convert(array: np.ndarray, channels: Channels) -> torch.Tensor:
    return _scale(_to_float(array, channels), array.dtype, channels)


def _to_float(array: np.ndarray, channels: Channels) -> np.ndarray:
    last = array.ndim > 2 and channels == "last"
    return (np.moveaxis(array, -1, 1) if last else array).astype(np.float32, order="C", copy=False)


def _scale(x: np.ndarray, dtype: np.dtype, channels: Channels) -> torch.Tensor:
    """Return inputs of an array of this type, given its numbers in float32, which may be changed in place."""
    if dtype == np.uint8:
        x /= 255
    return torch.from_numpy(x[:, None] if x.ndim > 2 and channels == "none" else x)


def _check(array: np.ndarray, name: str, channels: Channels, first: int) -> np.ndarray:
    """Return an array in float32, not scaled. Raise OptionError if float32 cannot hold its numbers."""
    with np.errstate(over="ignore"):  # infinite values are reported below
        x = _to_float(array, channels)
        largest = max(float(x.max()), -float(x.min()))
        if not math.isfinite(largest):  # NaN included
            check_finite(array.astype(np.float32), array, name, "inputs", first)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and largest > EXACT:
        limit = f"float32 is exact up to {EXACT:,}"
        raise OptionError("inputs", f"{name} holds integers up to {largest:.3g}, and {limit}; subtract or divide first")
    return x


def note_channels(array: Array, name: str, channels: Channels) -> tuple[str, ...]:
    """Return a notice if bytes look like images whose channels are elsewhere than chosen."""
    if array.dtype != np.uint8 or channels != "first" or len(array.shape) < 3:
        return ()
    few = (1, 3, 4)
    read = f"{name} of shape {array.shape} is read as {array.shape[1]} channels"
    if len(array.shape) == 3 and array.shape[1] not in few:
        return (f"{read} of a series; for images without channels add data.channels=none",)
    if len(array.shape) == 4 and array.shape[1] not in few and array.shape[3] in few:
        return (f"{read} of images; if the channels come last, add data.channels=last",)
    return ()


def check_finite(x: np.ndarray, array: np.ndarray, name: str, key: str, first: int = 0) -> None:
    """Refuse numbers that are not finite in x, the array in float32; first is the row at which they begin."""
    wrong = ~np.isfinite(x)
    count = int(wrong.sum())
    if count:
        row, *rest = (int(i) for i in np.unravel_index(int(wrong.argmax()), x.shape))
        column = "" if not rest else f", column {rest[0]}" if len(rest) == 1 else f", position {tuple(rest)}"
        value = array[(row, *rest)]
        more = f", and {count - 1} more are not" if count > 1 else ""
        raise OptionError(key, f"{name}: {value} in row {first + row}{column} (from 0) is not finite in float32{more}")


def check_rounding(array: Array, name: str, key: str, *, last: bool = False) -> None:
    """Refuse numbers that differ by little more than the rounding error of float32, such as times in seconds."""
    if array.dtype.itemsize < 4 or array.dtype == np.float32:
        return

    def iter_columns() -> Iterator[np.ndarray]:
        for _, chunk in _iter_chunks(array):
            yield (np.moveaxis(chunk, -1, 1) if last else chunk).reshape(len(chunk), -1)

    lows, highs = zip(*((columns.min(0), columns.max(0)) for columns in iter_columns()), strict=True)
    low, high = np.min(lows, 0).astype(np.float64), np.max(highs, 0).astype(np.float64)
    width = high - low
    largest_error = np.maximum(np.abs(low), np.abs(high)) * 2.0**-24
    for i in np.flatnonzero((width > 0) & (largest_error > ROUNDING * width)):
        parts = (columns[:, i].astype(np.float64) for columns in iter_columns())
        error = max(np.abs(column - column.astype(np.float32)).max() for column in parts)
        if error > ROUNDING * width[i]:
            place = f"{name}, column {i} (from 0)," if len(width) > 1 else name
            spread = f"{place} holds numbers from {low[i]:.10g} to {high[i]:.10g}"
            raise OptionError(key, f"{spread}, which float32 rounds by up to {error:.2g}; subtract their mean first")


def name_dtype(dtype: np.dtype) -> str:
    return {"U": "text", "S": "text", "c": "complex numbers", "O": "Python objects"}.get(dtype.kind, str(dtype))


def _iter_chunks(array: Array) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the whole array, or chunks of a mapped one, each with its first row."""
    if isinstance(array, np.ndarray):
        yield 0, array
        return
    size = max(1, CHUNK_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), size):
        yield first, array[first : first + size]

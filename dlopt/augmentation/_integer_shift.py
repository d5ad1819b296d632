"""Shifts by whole positions along the spatial axes, with a separate offset for each example."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlopt import prng
from dlopt.prng import Key

FillMode = Literal["zero", "edge", "reflect", "wrap"]
"""Values that enter at an edge: zeros, the last value, the reflection in it, or the values that leave at the other."""


def random_offsets(key: Key, most: tuple[int, ...], inputs: Tensor) -> Tensor:
    """Draw an integer for each example and axis, uniform in -most, ..., most of the axis; (B, axes)."""
    u = prng.uniform(key, (len(inputs), len(most)), inputs.device)
    return torch.stack([(u[:, i] * (2 * m + 1)).floor().long() - m for i, m in enumerate(most)], dim=-1)


def shift_by(inputs: Tensor, by: Tensor, fill: FillMode) -> Tensor:
    """Shift each of the inputs (B, channels, *space) by its own number of positions per axis, by (B, axes)."""
    batch, channels, *space = inputs.shape
    if fill == "zero":
        inputs = F.pad(inputs, (0, 1) * len(space))  # the zero that `_find_sources` points to
    index, *others = [_find_sources(by[:, i], length, fill) for i, length in enumerate(space)]
    for i, source in enumerate(others):
        index = (index.unsqueeze(-1) * inputs.shape[3 + i] + source.unsqueeze(1)).flatten(1)
    shifted = inputs.flatten(2).gather(-1, index.unsqueeze(1).expand(batch, channels, -1))
    return shifted.unflatten(-1, space)


def _find_sources(by: Tensor, length: int, fill: FillMode) -> Tensor:
    """Return the source of each position of each example, (B, length); the index `length` stands for a zero."""
    source = torch.arange(length, device=by.device) - by.unsqueeze(-1)
    if fill == "zero":
        return torch.where((source >= 0) & (source < length), source, length)
    if fill == "edge":
        return source.clamp(0, length - 1)
    if fill == "wrap":
        return source.remainder(length)
    period = max(2 * (length - 1), 1)  # a single position reflects to itself
    source = source.remainder(period)
    return torch.minimum(source, period - source)

"""Moves by whole positions, each example its own way: for series, images and anything with axes of space."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlopt import prng
from dlopt.prng import Key

FillMode = Literal["zero", "edge", "reflect", "wrap"]
"""What enters at an edge: zeros, the last value, the mirror image in the last value, or what left at the other end."""


def random_offsets(key: Key, most: tuple[int, ...], inputs: Tensor) -> Tensor:
    """For each example and axis a whole number, uniform in -most, ..., most of that axis; (B, axes)."""
    u = prng.uniform(key, (len(inputs), len(most)), inputs.device)
    return torch.stack([(u[:, i] * (2 * m + 1)).floor().long() - m for i, m in enumerate(most)], dim=-1)


def shift_by(inputs: Tensor, by: Tensor, fill: FillMode) -> Tensor:
    """Each of the inputs (B, channels, *space) moved by its own number of positions along each axis, by (B, axes)."""
    batch, channels, *space = inputs.shape
    if fill == "zero":
        inputs = F.pad(inputs, (0, 1) * len(space))  # the zero that `_sources` points to
    at, *more = [_sources(by[:, i], length, fill) for i, length in enumerate(space)]
    for i, source in enumerate(more):
        at = (at.unsqueeze(-1) * inputs.shape[3 + i] + source.unsqueeze(1)).flatten(1)
    found = inputs.flatten(2).gather(-1, at.unsqueeze(1).expand(batch, channels, -1))
    return found.unflatten(-1, space)


def _sources(by: Tensor, length: int, fill: FillMode) -> Tensor:
    """Where each position of each example gets its value from, (B, length); `length` itself stands for a zero."""
    at = torch.arange(length, device=by.device) - by.unsqueeze(-1)
    if fill == "zero":
        return torch.where((at >= 0) & (at < length), at, length)
    if fill == "edge":
        return at.clamp(0, length - 1)
    if fill == "wrap":
        return at.remainder(length)
    period = max(2 * (length - 1), 1)  # a single position has no mirror image but itself
    at = at.remainder(period)
    return torch.minimum(at, period - at)

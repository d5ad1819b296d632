"""Random mirror images along one axis."""

import torch
from torch import Tensor

from dlopt import prng
from dlopt.prng import Key


def flip_at_random(inputs: Tensor, axis: int, p: float, key: Key) -> Tensor:
    """Mirror each of the inputs (B, *shape) along an axis, counted from the last, with probability p."""
    length = inputs.shape[axis]
    flipped = prng.uniform(key, (len(inputs), 1), inputs.device) < p
    position = torch.arange(length, device=inputs.device)
    source = torch.where(flipped, position.flip(0), position)
    shape = (len(inputs), *(1,) * (inputs.ndim + axis - 1), length, *(1,) * (-1 - axis))
    return inputs.gather(axis, source.view(shape).expand(inputs.shape))

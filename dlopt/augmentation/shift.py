"""Random shifts of a series."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from dlopt import streams
from dlopt.parts import Augmentation
from dlopt.ranges import Range
from dlopt.streams import Key


@dataclass(frozen=True)
class Shift(Augmentation):
    """Moves each series along its axis by a whole number of positions, uniform in -most, ..., most.

    most   the largest shift, in positions
    fill   what enters at the edge: wrap (what left at the other end), edge (the last value), or zero
    """

    dims: ClassVar[tuple[int, ...]] = (1,)
    most: Annotated[int, Range(ge=0)]
    fill: Literal["wrap", "edge", "zero"]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        batch, _, length = inputs.shape
        by = (streams.uniform(key, (batch, 1), inputs.device) * (2 * self.most + 1)).floor().long() - self.most
        source = torch.arange(length, device=inputs.device) - by
        at = source.remainder(length) if self.fill == "wrap" else source.clamp(0, length - 1)
        moved = inputs.gather(-1, at.unsqueeze(1).expand(inputs.shape))
        if self.fill == "zero":
            moved = moved.masked_fill((at != source).unsqueeze(1), 0.0)
        return moved, targets

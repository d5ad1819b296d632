"""Random horizontal flips."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dlopt import prng
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range


@dataclass(frozen=True)
class FlipHorizontal(Augmentation):
    """Mirrors each image left to right with probability p: x'[i, j] = x[i, width - 1 - j].

    p   probability of a flip

    Source: Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    p: Annotated[float, Range(ge=0, le=1)]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        flipped = prng.uniform(key, (len(inputs), 1), inputs.device) < self.p
        column = torch.arange(inputs.shape[-1], device=inputs.device)
        source = torch.where(flipped, column.flip(0), column)
        return inputs.gather(-1, source[:, None, None].expand(inputs.shape)), targets

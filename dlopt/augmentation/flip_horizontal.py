"""Random horizontal flips."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.augmentation._flip import flip_at_random
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Probability


@dataclass(frozen=True)
class FlipHorizontal(Augmentation):
    """Mirrors each image left to right with probability p: x'[i, j] = x[i, width - 1 - j].

    p   probability of a flip

    Source: Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    p: Probability

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return flip_at_random(inputs, -1, self.p, key), targets

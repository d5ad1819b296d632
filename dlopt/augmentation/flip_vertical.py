"""Random vertical flips."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.augmentation._flip import flip_at_random
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Probability


@dataclass(frozen=True)
class FlipVertical(Augmentation):
    """Mirrors each image upside down with probability p: x'[i, j] = x[height - 1 - i, j].

    It suits images without an upper side, such as cells, tissue, or the ground seen from above.

    p   probability of a flip

    Source: the vertical case of flip_horizontal, equal to torchvision's RandomVerticalFlip.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    p: Probability

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return flip_at_random(inputs, -2, self.p, key), targets

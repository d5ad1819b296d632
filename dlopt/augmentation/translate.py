"""Random translations of an image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.augmentation._integer_shift import FillMode, random_offsets, shift_by
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class Translate(Augmentation):
    """Moves each image by a whole number of pixels down and, independently, across, each uniform in -m, ..., m.

    m is the share `most` of the height for the one and of the width for the other, rounded down to whole pixels: some
    of the image is always in view. Whole pixels need no interpolation, which would blur.

    most   the largest move, as a share of height and width
    fill   what enters: zero, edge (the last pixel), reflect (the image mirrored in its last pixel), or wrap (what has
           left at the other side)

    Source: Simard, Steinkraus and Platt 2003, section 2, there by interpolation.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    most: Fraction
    fill: FillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        height, width = inputs.shape[-2:]
        most = (int(self.most * height), int(self.most * width))
        return shift_by(inputs, random_offsets(key, most, inputs), self.fill), targets

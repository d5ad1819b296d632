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
    """Shifts each image by an integer number of pixels down and, independently, across, each uniform in -m, ..., m.

    m is the fraction `most` of the height or of the width, rounded to the nearest whole number of pixels, and at most
    one pixel less than the height or width, so that part of the image is always visible. Whole pixels need no
    interpolation, which would blur the image.

    most   maximum shift, as a fraction of height and width
    fill   values that enter: zero, edge (the last pixel), reflect (the reflection in the last pixel), or wrap (the
           pixels that leave at the other side)

    Source: Simard, Steinkraus and Platt 2003, section 2, there by interpolation.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    most: Fraction
    fill: FillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        most = tuple(min(round(self.most * length), length - 1) for length in inputs.shape[-2:])
        return shift_by(inputs, random_offsets(key, most, inputs), self.fill), targets

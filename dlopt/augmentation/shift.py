"""Random shifts of a series."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dlopt.augmentation._integer_shift import FillMode, random_offsets, shift_by
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range


@dataclass(frozen=True)
class Shift(Augmentation):
    """Shifts each series by an integer number of positions, uniform in -most, ..., most.

    most   maximum shift, in positions
    fill   values that enter: zero, edge (the last value), reflect (the reflection in the last value), or wrap (the
           values that leave at the other end)
    """

    dims: ClassVar[tuple[int, ...]] = (1,)
    most: Annotated[int, Range(ge=0)]
    fill: FillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return shift_by(inputs, random_offsets(key, (self.most,), inputs), self.fill), targets

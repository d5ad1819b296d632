"""Random crops of a padded image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dlopt.augmentation._integer_shift import FillMode, random_offsets, shift_by
from dlopt.errors import OptionError
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range


@dataclass(frozen=True)
class Crop(Augmentation):
    """Pads each image on all sides, then crops a window of the original size at a uniformly random position.

    This equals a shift of the image by -padding, ..., padding pixels in each direction, which is how it is computed.

    padding   pixels on each side; less than height and width, so that each window shows part of the image; else
              ValueError
    fill      content of the padding: zero, edge (the last pixel), reflect (the reflection in the last pixel), or wrap
              (the opposite side)

    Source: He, Zhang, Ren and Sun 2016, section 4.2: 4 pixels of zeros on CIFAR, and a flip.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    padding: Annotated[int, Range(ge=0)]
    fill: FillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        if self.padding >= min(inputs.shape[-2:]):
            raise OptionError(
                "padding",
                f"must be less than height and width, {inputs.shape[-2]} and {inputs.shape[-1]}, so that each window "
                f"shows part of the image; got {self.padding}",
            )
        return shift_by(inputs, random_offsets(key, (self.padding, self.padding), inputs), self.fill), targets

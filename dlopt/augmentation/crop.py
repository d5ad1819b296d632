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
    """Pads each image on all sides, then cuts a window of the original size from it, at any place with equal chance.

    A window that lies d pixels from the middle of the padded image shows the image moved by -d, and the padding where
    it is moved away: the image is moved by -padding, ..., padding pixels in each direction, and nothing is padded.

    padding   pixels on each side; fewer than height and width, so that every window shows some of the image
              (ValueError)
    fill      the padding: zero, edge (the last pixel), reflect (the image mirrored in its last pixel), or wrap (the
              opposite side)

    Source: He, Zhang, Ren and Sun 2016, section 4.2: on CIFAR 4 pixels of zeros, and a flip.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    padding: Annotated[int, Range(ge=0)]
    fill: FillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        if self.padding >= min(inputs.shape[-2:]):
            raise OptionError(
                "padding",
                f"must be less than height and width, {inputs.shape[-2]} and {inputs.shape[-1]}, or a window may show "
                f"nothing of the image; got {self.padding}",
            )
        return shift_by(inputs, random_offsets(key, (self.padding, self.padding), inputs), self.fill), targets

"""Random brightness of an image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.augmentation._color import adjust_brightness, factor_interval
from dlopt.augmentation._intervals import sample_uniform
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Brightness(Augmentation):
    """Multiplies the pixels of each image by a factor: x' = clip(f x, 0, 1), f uniform in [max(0, 1 - most), 1 + most].

    x is the image without the preprocessing, from 0 (black) to 1 (white); the result is preprocessed again. Data with
    other values are refused, and preprocessing that mixes pixels or is not affine.

    most   maximum relative change of the brightness

    Source: Howard 2013, Some improvements on deep CNN based image classification, section 2. The formula is
    torchvision's ColorJitter(brightness=most).
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    uses_pixels: ClassVar[bool] = True
    most: NonNegative

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        return adjust_brightness(inputs, sample_uniform(key, factor_interval(self.most), inputs)), targets

"""Random contrast of an image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.augmentation._color import adjust_contrast, check_gray_or_color, factor_interval
from dlopt.augmentation._intervals import sample_uniform
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Contrast(Augmentation):
    """Stretches the pixels of each image about their mean brightness m: x' = clip(f x + (1 - f) m, 0, 1).

    f is uniform in [max(0, 1 - most), 1 + most]. The brightness of a colour is 0.2989 R + 0.587 G + 0.114 B. x is the
    image without the preprocessing, from 0 (black) to 1 (white); the result is preprocessed again. Data with other
    values are refused, and preprocessing that mixes pixels or is not affine.

    most   maximum relative change of the contrast

    Needs 1 or 3 channels, else ValueError.

    Source: Howard 2013, Some improvements on deep CNN based image classification, section 2. The formula is
    torchvision's ColorJitter(contrast=most).
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    uses_pixels: ClassVar[bool] = True
    most: NonNegative

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        check_gray_or_color(inputs)
        return adjust_contrast(inputs, sample_uniform(key, factor_interval(self.most), inputs)), targets

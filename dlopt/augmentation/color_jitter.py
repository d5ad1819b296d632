"""Random brightness, contrast, saturation and hue of an image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from dlopt import prng
from dlopt.augmentation import _color
from dlopt.augmentation._intervals import sample_uniform
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import NonNegative, Range


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue of each image, in this order.

        brightness   x <- clip(f x),             f uniform in [max(0, 1 - brightness), 1 + brightness]
        contrast     x <- clip(f x + (1 - f) m), m the mean over the image of g = 0.2989 R + 0.587 G + 0.114 B
        saturation   x <- clip(f x + (1 - f) g), g of each pixel
        hue          turned by h of a full circle in HSV, h uniform in [-hue, hue]

    Each f is drawn as that of brightness, and clip is to [0, 1]. x is the image without the preprocessing, from 0
    (black) to 1 (white); the result is preprocessed again. Data with other values are refused, and preprocessing that
    mixes pixels or is not affine.

    brightness   maximum relative change; 0: none
    contrast     maximum relative change; 0: none
    saturation   maximum relative change; 0: none
    hue          maximum turn in fractions of a circle; 0: none

    Saturation and hue need 3 channels and contrast 1 or 3, else ValueError.

    Source: Howard 2013, Some improvements on deep CNN based image classification, section 2. The formulas are those of
    torchvision's ColorJitter, which applies them in random order.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    uses_pixels: ClassVar[bool] = True
    brightness: NonNegative
    contrast: NonNegative
    saturation: NonNegative
    hue: Annotated[float, Range(ge=0, le=0.5)]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        def sample(name: str, interval: tuple[float, float]) -> Tensor:
            return sample_uniform(prng.fold_in(key, name), interval, inputs)

        pixels = inputs
        if self.brightness > 0:
            pixels = _color.adjust_brightness(pixels, sample("brightness", _color.factor_interval(self.brightness)))
        if self.contrast > 0:
            _color.check_gray_or_color(pixels, "contrast")
            pixels = _color.adjust_contrast(pixels, sample("contrast", _color.factor_interval(self.contrast)))
        if self.saturation > 0:
            _color.check_color(pixels, "saturation")
            pixels = _color.adjust_saturation(pixels, sample("saturation", _color.factor_interval(self.saturation)))
        if self.hue > 0:
            _color.check_color(pixels, "hue")
            pixels = _color.adjust_hue(pixels, sample("hue", (-self.hue, self.hue)))
        return pixels, targets

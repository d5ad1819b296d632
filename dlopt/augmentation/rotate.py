"""Random rotations of an image."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dlopt import prng
from dlopt.augmentation._sampling import SampleFill, warp_images
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range


@dataclass(frozen=True)
class Rotate(Augmentation):
    """Rotates each image about its centre, counter-clockwise, by an angle t uniform in [-degrees, degrees].

        x'(z) = x(z e^(it)),   z = (column - (width - 1)/2) + i (row - (height - 1)/2), the position of a pixel

    Rows run downwards, so a factor e^(it) rotates clockwise, from a position to its source. Between pixels, x is
    interpolated bilinearly.

    degrees   maximum angle in either direction
    fill      values that enter at the corners: zero, edge (the nearest pixel), or reflect (the reflection in the last
              pixels)

    Source: Simard, Steinkraus and Platt 2003, section 2.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    degrees: Annotated[float, Range(ge=0, le=180)]
    fill: SampleFill

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        u = prng.uniform(key, (len(inputs),), inputs.device).to(inputs.dtype)
        return rotate_images(inputs, (2.0 * u - 1.0) * math.radians(self.degrees), self.fill), targets


def rotate_images(inputs: Tensor, angles: Tensor, fill: SampleFill) -> Tensor:
    """Rotate each of the images (B, channels, height, width) counter-clockwise by its angle (B,), in radians."""
    return warp_images(inputs, torch.complex(angles.cos(), angles.sin()), fill)

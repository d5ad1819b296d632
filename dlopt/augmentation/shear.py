"""Random shears of an image."""

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

Degrees = Annotated[float, Range(ge=0, lt=90)]


@dataclass(frozen=True)
class Shear(Augmentation):
    """Shears each image about its centre, along its rows by an angle a and along its columns by an angle b.

        x'(column, row) = x(column + tan(a) (row + tan(b) column), row + tan(b) column)

    Columns and rows are counted from the centre, rows downwards. a is uniform in [-horizontal, horizontal], and b in
    [-vertical, vertical]. Between pixels, x is interpolated bilinearly. The map is that of torchvision's
    RandomAffine(0, shear=...).

    horizontal   maximum angle in degrees by which columns are tilted
    vertical     maximum angle in degrees by which rows are tilted
    fill         values that enter at the edges: zero, edge (the nearest pixel), or reflect (the reflection in the last
                 pixels)

    Source: Simard, Steinkraus and Platt 2003, section 2: affine distortions.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    horizontal: Degrees
    vertical: Degrees
    fill: SampleFill

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        u = prng.uniform(key, (2, len(inputs)), inputs.device).to(inputs.dtype)
        a, b = (math.radians(d) * (2.0 * v - 1.0) for d, v in zip((self.horizontal, self.vertical), u, strict=True))
        return shear_images(inputs, a.tan(), b.tan(), self.fill), targets


def shear_images(inputs: Tensor, across: Tensor, down: Tensor, fill: SampleFill) -> Tensor:
    """Shear each of the images (B, channels, height, width) by the tangents (B,) of its two angles."""
    half = across * down / 2  # the map is the matrix [[1 + across down, across], [down, 1]]
    rotation = torch.complex(1.0 + half, (down - across) / 2)
    return warp_images(inputs, rotation, fill, conjugate=torch.complex(half, (down + across) / 2))

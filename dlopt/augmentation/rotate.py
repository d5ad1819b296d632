"""Random rotations of an image."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlopt import prng
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range

RotateFillMode = Literal["zero", "edge", "reflect"]


@dataclass(frozen=True)
class Rotate(Augmentation):
    """Rotates each image about its middle by an angle t, uniform between -degrees and degrees, counter-clockwise.

        x'(z) = x(z e^(it)),   z = (j - (width - 1)/2) + i (row - (height - 1)/2), the place of a pixel in the plane

    Rows run downwards, so that a factor e^(it) turns clockwise, from a place to the one its value comes from. Between
    pixels x is interpolated bilinearly.

    degrees   the largest angle to either side
    fill      what enters at the corners: zero, edge (the nearest pixel), or reflect (the image mirrored in its last
              pixels)

    Source: Simard, Steinkraus and Platt 2003, section 2.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    degrees: Annotated[float, Range(ge=0, le=180)]
    fill: RotateFillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        u = prng.uniform(key, (len(inputs),), inputs.device).to(inputs.dtype)
        return rotate_images(inputs, (2.0 * u - 1.0) * math.radians(self.degrees), self.fill), targets


def rotate_images(inputs: Tensor, angles: Tensor, fill: RotateFillMode) -> Tensor:
    """Each of the images (B, channels, height, width) rotated counter-clockwise by its own angle (B,), in radians."""
    height, width = inputs.shape[-2:]
    across, down = _pixel_centers(width, inputs), _pixel_centers(height, inputs)
    # grid_sample counts places from -1, the first pixel, to 1, the last; one pixel alone is both
    reach, reach_down = max(width - 1, 1) / 2, max(height - 1, 1) / 2
    z = torch.complex(across.expand(height, width), down.unsqueeze(-1).expand(height, width)) / reach
    source = torch.complex(angles.cos(), angles.sin())[:, None, None] * z
    if height == width:  # a quarter of the time of the general form
        grid = torch.view_as_real(source)
    else:
        grid = torch.stack((source.real, source.imag * (reach / reach_down)), dim=-1)
    return F.grid_sample(inputs, grid, padding_mode=_PADDING[fill], align_corners=True)


_PADDING = {"zero": "zeros", "edge": "border", "reflect": "reflection"}
"""The fills as torch calls them."""


def _pixel_centers(length: int, like: Tensor) -> Tensor:
    """The pixels of an axis, counted from its middle."""
    return torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2

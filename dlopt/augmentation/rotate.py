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
    fill: RotateFillMode

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        u = prng.uniform(key, (len(inputs),), inputs.device).to(inputs.dtype)
        return rotate_images(inputs, (2.0 * u - 1.0) * math.radians(self.degrees), self.fill), targets


def rotate_images(inputs: Tensor, angles: Tensor, fill: RotateFillMode) -> Tensor:
    """Rotate each of the images (B, channels, height, width) counter-clockwise by its angle (B,), in radians."""
    height, width = inputs.shape[-2:]
    across, down = _pixel_centers(width, inputs), _pixel_centers(height, inputs)
    # grid_sample counts positions from -1, the first pixel, to 1, the last; a single pixel is both
    reach, reach_down = max(width - 1, 1) / 2, max(height - 1, 1) / 2
    z = torch.complex(across.expand(height, width), down.unsqueeze(-1).expand(height, width)) / reach
    source = torch.complex(angles.cos(), angles.sin())[:, None, None] * z
    if height == width:  # a quarter of the time of the general form
        grid = torch.view_as_real(source)
    else:
        grid = torch.stack((source.real, source.imag * (reach / reach_down)), dim=-1)
    return F.grid_sample(inputs, grid, padding_mode=_PADDING[fill], align_corners=True)


_PADDING = {"zero": "zeros", "edge": "border", "reflect": "reflection"}
"""Names of the fills in torch."""


def _pixel_centers(length: int, like: Tensor) -> Tensor:
    """Return the positions of the pixels of an axis, counted from its centre."""
    return torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2

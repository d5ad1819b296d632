"""Bilinear interpolation of images at the positions to which a geometric change maps each pixel."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SampleFill = Literal["zero", "edge", "reflect"]
"""Values beyond the edge: zeros, the nearest pixel, or the reflection in the last pixels."""
_PADDING = {"zero": "zeros", "edge": "border", "reflect": "reflection"}
"""Names of the fills in torch."""


def warp_images(
    inputs: Tensor, rotation: Tensor, fill: SampleFill, conjugate: Tensor | None = None, offset: Tensor | None = None
) -> Tensor:
    """Return images with x'(z) = x(r z + c conj(z) + o): any affine map of positions, in complex numbers.

        z = (column - (width - 1)/2) + i (row - (height - 1)/2), the position of a pixel; rows run downwards

    inputs      images x, (B, channels, height, width)
    rotation    r, (B,): |r| scales, and the angle of r rotates
    conjugate   c, (B,); 0 if it is not given
    offset      o, (B,), in pixels; 0 if it is not given
    """
    height, width = inputs.shape[-2:]
    across, down = _pixel_centers(width, inputs), _pixel_centers(height, inputs)
    reach, reach_down = _reach(width), _reach(height)
    z = torch.complex(across.expand(height, width), down.unsqueeze(-1).expand(height, width)) / reach
    source = rotation[:, None, None] * z
    if conjugate is not None:
        source = torch.addcmul(source, conjugate[:, None, None], z.conj().resolve_conj())
    if offset is not None:
        source = source + (offset / reach)[:, None, None]
    if height == width:  # a quarter of the time of the general form
        grid = torch.view_as_real(source)
    else:
        grid = torch.stack((source.real, source.imag * (reach / reach_down)), dim=-1)
    return F.grid_sample(inputs, grid, padding_mode=_PADDING[fill], align_corners=True)


def resize_windows(inputs: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Cut a window out of each image and enlarge it to the size of the image; positions and sizes (B,) in pixels.

    Pixels are squares, and those beyond the window do not enter: this is
    F.interpolate(window, size, mode="bilinear", align_corners=False).
    """
    down = _window_positions(top, height, inputs.shape[-2], inputs)
    across = _window_positions(left, width, inputs.shape[-1], inputs)
    size = (len(inputs), *inputs.shape[-2:])
    grid = torch.stack((across.unsqueeze(1).expand(size), down.unsqueeze(2).expand(size)), dim=-1)
    return F.grid_sample(inputs, grid, padding_mode="border", align_corners=True)


def _window_positions(start: Tensor, size: Tensor, length: int, like: Tensor) -> Tensor:
    """Return the source of each pixel of an axis, (B, length), in the units of grid_sample."""
    start, size = (x.to(like.dtype).unsqueeze(-1) for x in (start, size))
    middles = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    inside = torch.minimum((middles * (size / length) - 0.5).clamp(min=0.0), size - 1.0)
    return (start + inside - (length - 1) / 2) / _reach(length)


def _pixel_centers(length: int, like: Tensor) -> Tensor:
    """Return the positions of the pixels of an axis, counted from its centre."""
    return torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2


def _reach(length: int) -> float:
    """Return the half-length of an axis: grid_sample counts from -1, the first pixel, to 1, the last.

    A single pixel is both.
    """
    return max(length - 1, 1) / 2

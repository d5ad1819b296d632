"""Changes of the colours of images, (B, channels, height, width) with values from 0 to 1, by factors of shape (B,).

The formulas are those of torchvision.transforms.functional for images of floating point numbers. Results are clipped to
0, ..., 1.
"""

import torch
from torch import Tensor

from dlopt.errors import OptionError

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a colour (ITU-R BT.601)."""


def factor_interval(most: float) -> tuple[float, float]:
    """Return the interval of a factor whose relative change is at most `most`."""
    return max(0.0, 1.0 - most), 1.0 + most


def check_gray_or_color(pixels: Tensor, key: str = "") -> None:
    """Raise OptionError for a number of channels other than 1 and 3; key: the field to change, if there is one."""
    if (channels := pixels.shape[-3]) not in (1, 3):
        raise OptionError(key, f"needs gray images or colours: 1 or 3 channels; these images have {channels}")


def check_color(pixels: Tensor, key: str) -> None:
    """Raise OptionError for a number of channels other than 3."""
    if (channels := pixels.shape[-3]) != 3:
        raise OptionError(key, f"needs colours: 3 channels; these images have {channels}; use 0")


def to_gray(pixels: Tensor) -> Tensor:
    """Return the brightness of each pixel, (B, 1, height, width), for 1 or 3 channels."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def blend(pixels: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return clip(f x + (1 - f) other)."""
    return torch.lerp(other, pixels, factor.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


def adjust_brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return clip(f x)."""
    return (pixels * factor.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


def adjust_contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return clip(f x + (1 - f) m), where m is the mean brightness of the image."""
    return blend(pixels, to_gray(pixels).mean((-2, -1), keepdim=True), factor)


def adjust_saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Return clip(f x + (1 - f) g), where g is the brightness of each pixel."""
    return blend(pixels, to_gray(pixels), factor)


def adjust_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of the colours (3 channels) by fractions of a full circle; value and chroma stay.

    With V = max, C = max - min of red, green and blue, and the hue H in sixths of a circle, a channel is
    V - C clip(min(k, 4 - k), 0, 1), where k = (n + H) mod 6, n = 5 for red, 3 for green and 1 for blue.
    """
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2.0, (red - green) / divisor + 4.0),
    )
    hue = hue + 6.0 * turns.view(-1, 1, 1)
    channels = []
    for n in (5.0, 3.0, 1.0):
        k = (hue + n).remainder(6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0.0, 1.0))
    return torch.stack(channels, dim=1)

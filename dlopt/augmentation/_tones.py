"""Changes of the tones of images, (B, channels, height, width) with values from 0 to 1, as in Pillow.

Operations of 8-bit images round the values to multiples of 1/255.
"""

import torch
from torch import Tensor

WHITE = 255
"""The value of white in an 8-bit image."""


def smooth(pixels: Tensor) -> Tensor:
    """Return the mean of 3 x 3 pixels, in which the middle one counts five times; pixels at the edge stay."""
    if min(pixels.shape[-2:]) < 3:
        return pixels
    inner = pixels[..., 1:-1, 1:-1]
    columns = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]  # a fifth of the time of F.conv2d
    sums = columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]
    result = pixels.clone()
    result[..., 1:-1, 1:-1] = (sums + 4.0 * inner) / 13.0
    return result


def posterize(pixels: Tensor, bits: Tensor) -> Tensor:
    """Keep only the highest bits, (B,), of the 8 bits of each value."""
    step = torch.exp2(8.0 - bits.to(pixels.dtype)).view(-1, 1, 1, 1)
    return ((pixels * WHITE).round() / step).floor() * step / WHITE


def solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values from a threshold, (B,), on."""
    return torch.where(pixels >= threshold.view(-1, 1, 1, 1), 1.0 - pixels, pixels)


def stretch_contrast(pixels: Tensor) -> Tensor:
    """Map the smallest value of each channel to 0 and the largest to 1; a channel of one value stays."""
    low, high = pixels.amin((-2, -1), keepdim=True), pixels.amax((-2, -1), keepdim=True)
    distance = high - low
    return torch.where(distance > 0, (pixels - low) / torch.where(distance > 0, distance, 1.0), pixels)


def equalize(pixels: Tensor) -> Tensor:
    """Spread the 256 values of each channel so that their distribution is nearly uniform, by integers as in Pillow.

    With h the histogram of n pixels, s = (n - h[largest value]) div 255, a value v becomes
    (s div 2 + h[0] + ... + h[v - 1]) div s, at most 255. If s is 0, the channel stays.
    """
    values = (pixels * WHITE).round().clamp(0, WHITE).long().flatten(2)
    zeros = torch.zeros_like(values[..., :1]).expand(*values.shape[:2], WHITE + 1)
    histogram = zeros.scatter_add(-1, values, torch.ones_like(values))
    step = (values.shape[-1] - histogram.gather(-1, values.amax(-1, keepdim=True))) // WHITE
    below = histogram.cumsum(-1) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=WHITE)
    equal = (table.gather(-1, values).to(pixels.dtype) / WHITE).unflatten(-1, pixels.shape[-2:])
    return torch.where(step.unsqueeze(-1) > 0, equal, pixels)

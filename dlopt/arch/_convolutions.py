"""Convolutions and pooling for series and images, as several networks use them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.parts import Normalization


def count_dims(arch: str, inputs: tuple[int, ...], *, images_only: bool = False) -> int:
    """Return 1 for series and 2 for images. Raises ValueError for other data."""
    dims = len(inputs) - 1
    if dims not in ((2,) if images_only else (1, 2)):
        suited = "images (channels, height, width)"
        suited = suited if images_only else f"series (channels, length) or {suited}"
        raise ValueError(f"{arch} needs {suited}, the data has shape {inputs}; use arch=mlp")
    return dims


def make_convolution(
    before: int, after: int, kernel: int, normalization: Normalization, dims: int, stride: int = 1
) -> list[nn.Module]:
    """Return a convolution and its normalization, if there is one; then the convolution has no bias.

    It is padded so that only a stride changes the number of positions. kernel must be odd.
    """
    norm = normalization(after, dims)
    kind: Any = nn.Conv1d if dims == 1 else nn.Conv2d
    convolution: nn.Module = kind(before, after, kernel, stride, padding=kernel // 2, bias=norm is None)
    return [convolution] if norm is None else [convolution, norm]


def scale(features: int, width: float) -> int:
    """Return a number of features times the width, at least 1."""
    return max(1, round(features * width))


class SamePool(nn.Module):
    """Maxima over windows of images, padded as TensorFlow's "same": n positions become ceil(n / stride).

    An odd number of padded positions has the larger half at the end.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for n in (x.shape[-1], x.shape[-2]):
            padding = max(0, (-(-n // self.stride) - 1) * self.stride + self.kernel - n)
            sides += [padding // 2, padding - padding // 2]
        return F.max_pool2d(F.pad(x, sides, value=float("-inf")), self.kernel, self.stride)

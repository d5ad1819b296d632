"""Random rectangles of an image, with a separate one for each example."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.augmentation._intervals import map_to
from dlopt.prng import Key

TRIES = 10
"""Draws of a size and shape for each image, of which the first that fits counts, as in torchvision."""


class Boxes(NamedTuple):
    """Rectangles of whole pixels, each field (B,) int64."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def mask(self, space: tuple[int, int]) -> Tensor:
        """Return whether each pixel lies in the rectangle of its image: (B, 1, height, width)."""
        rows, columns = (
            _is_inside(start, size, length)
            for start, size, length in zip((self.top, self.left), (self.height, self.width), space, strict=True)
        )
        return rows[:, None, :, None] & columns[:, None, None, :]


def _is_inside(start: Tensor, size: Tensor, length: int) -> Tensor:
    position = torch.arange(length, device=start.device)
    return (position >= start.unsqueeze(-1)) & (position < (start + size).unsqueeze(-1))


def draw_boxes(
    key: Key,
    like: Tensor,
    area: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
) -> tuple[Boxes, Tensor]:
    """Draw a rectangle for each image (B, channels, height, width), and whether one fits.

    Its area is uniform in the interval `area`, as a fraction of the image, and the logarithm of width/height is uniform
    in that of `ratio`. height = round(sqrt(area/ratio)) and width = round(sqrt(area ratio)) must be from 1 to
    `largest`. The position is uniform among those that lie in the image.
    """
    batch, (rows, columns) = len(like), like.shape[-2:]
    u = prng.uniform(prng.fold_in(key, "size"), (2, batch, TRIES), like.device)
    areas = map_to(area, u[0]) * (rows * columns)
    ratios = map_to((math.log(ratio[0]), math.log(ratio[1])), u[1]).exp()
    height, width = (areas / ratios).sqrt().round().long(), (areas * ratios).sqrt().round().long()
    fits = (height >= 1) & (height <= largest[0]) & (width >= 1) & (width <= largest[1])
    chosen = fits.int().cumsum(-1).eq(0).sum(-1, keepdim=True).clamp(max=TRIES - 1)
    height, width = (x.gather(-1, chosen).squeeze(-1) for x in (height, width))
    v = prng.uniform(prng.fold_in(key, "position"), (2, batch), like.device)
    top, left = (
        (at * (length - size + 1)).floor().long()
        for at, length, size in zip(v, (rows, columns), (height, width), strict=True)
    )
    return Boxes(top, left, height, width), fits.any(-1)


def place_centers(key: Key, like: Tensor, height: Tensor, width: Tensor) -> Boxes:
    """Return rectangles whose centre is a uniformly random pixel, cut off at the edges of the image.

    An even size extends one pixel less to the bottom and right than to the top and left.
    """
    v = prng.uniform(key, (2, len(like)), like.device)
    (top, height), (left, width) = (
        _cut_off((at * length).floor().long() - size // 2, size, length)
        for at, size, length in zip(v, (height, width), like.shape[-2:], strict=True)
    )
    return Boxes(top, left, height, width)


def _cut_off(start: Tensor, size: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return start and size of the part of an interval that lies in 0, ..., length - 1."""
    begin, end = start.clamp(min=0), (start + size).clamp(max=length)
    return begin, (end - begin).clamp(min=0)

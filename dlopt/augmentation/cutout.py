"""Cutout: erasing of a square of an image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlopt.augmentation._boxes import place_centers
from dlopt.errors import OptionError
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Count


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Sets a square of each image to zero. Its centre is a uniformly random pixel, so the edges may cut it off.

    Zero is the mean of centred data, such as with preprocess=per_channel.

    size   height and width of the square in pixels; at most twice the smaller side of the image, which no centre
           exceeds; else ValueError

    Source: DeVries and Taylor 2017, section 3: 16 pixels on CIFAR-10, 8 on CIFAR-100.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    size: Count

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        smaller = min(inputs.shape[-2:])
        if self.size > 2 * smaller:
            raise OptionError("size", f"must be at most {2 * smaller}, twice the smaller side, got {self.size}")
        size = torch.full((len(inputs),), self.size, device=inputs.device)
        mask = place_centers(key, inputs, size, size).mask((inputs.shape[-2], inputs.shape[-1]))
        return inputs.masked_fill(mask, 0.0), targets

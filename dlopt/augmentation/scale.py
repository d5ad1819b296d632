"""Random enlargements and reductions of an image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlopt.augmentation._intervals import check_intervals, get_interval, sample_uniform
from dlopt.augmentation._sampling import SampleFill, warp_images
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Scale(Augmentation):
    """Enlarges or reduces each image about its centre by a factor s uniform in [low, high]; its size stays.

        x'(column, row) = x(column / s, row / s),   columns and rows counted from the centre

    Between pixels, x is interpolated bilinearly, without a filter: a factor far below 1 skips pixels. The map is that
    of torchvision's RandomAffine(0, scale=(low, high)).

    low    minimum factor; below 1 the image shrinks
    high   maximum factor
    fill   values that enter around a smaller image: zero, edge (the nearest pixel), or reflect (the reflection in the
           last pixels)

    Raises ValueError if low exceeds high.

    Source: Simard, Steinkraus and Platt 2003, section 2: affine distortions.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    low: Positive
    high: Positive
    fill: SampleFill

    def __post_init__(self) -> None:
        check_intervals(self, "")

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        factors = sample_uniform(key, get_interval(self, ""), inputs)
        return warp_images(inputs, torch.complex(1.0 / factors, torch.zeros_like(factors)), self.fill), targets

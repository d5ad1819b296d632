"""Random erasing of a rectangle of an image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.augmentation._boxes import draw_boxes
from dlopt.augmentation._intervals import check_intervals, get_interval
from dlopt.augmentation.random_resized_crop import Area
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Probability


@dataclass(frozen=True)
class RandomErasing(Augmentation):
    """Replaces a rectangle of random size and shape, with probability p.

    The area of the rectangle is uniform in [area_low, area_high], as a fraction of the image, and the logarithm of
    height/width is uniform in that of [ratio_low, ratio_high]. The first of ten draws that is smaller than the image in
    both directions counts. If none is, the image stays as it is. For squares of a fixed size see augmentation=cutout.

    p            probability that an image is changed
    area_low     minimum area of the rectangle, as a fraction of the area of the image
    area_high    maximum area
    ratio_low    minimum height/width, in pixels
    ratio_high   maximum height/width
    fill         content of the rectangle. zero: 0, which is the mean of centred data; mean: the mean of each channel of
                 the image; noise: standard normal, for standardized data

    Raises ValueError if a minimum exceeds its maximum.

    Source: Zhong, Zheng, Kang, Li and Yang 2020, algorithm 1. As in torchvision's RandomErasing, the logarithm of the
    ratio is uniform; in the paper the ratio itself is.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    p: Probability
    area_low: Area
    area_high: Area
    ratio_low: Positive
    ratio_high: Positive
    fill: Literal["zero", "mean", "noise"]

    def __post_init__(self) -> None:
        check_intervals(self, "area", "ratio")

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        rows, columns = inputs.shape[-2:]
        low, high = get_interval(self, "ratio")
        boxes, fits = draw_boxes(
            key, inputs, get_interval(self, "area"), (1.0 / high, 1.0 / low), (rows - 1, columns - 1)
        )
        erased = (prng.uniform(prng.fold_in(key, "image"), (len(inputs),), inputs.device) < self.p) & fits
        mask = boxes.mask((rows, columns)) & erased[:, None, None, None]
        return torch.where(mask, self._make_content(inputs, key), inputs), targets

    def _make_content(self, inputs: Tensor, key: Key) -> Tensor:
        if self.fill == "mean":
            return inputs.mean((-2, -1), keepdim=True)
        if self.fill == "noise":
            return prng.normal(prng.fold_in(key, "noise"), tuple(inputs.shape), inputs.device).to(inputs.dtype)
        return torch.zeros((), dtype=inputs.dtype, device=inputs.device)

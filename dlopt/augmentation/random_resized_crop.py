"""Random crops of random size and shape, enlarged to the size of the image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dlopt.augmentation._boxes import draw_boxes
from dlopt.augmentation._intervals import check_intervals, get_interval
from dlopt.augmentation._sampling import resize_windows
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Range

Area = Annotated[float, Range(gt=0, le=1)]


@dataclass(frozen=True)
class RandomResizedCrop(Augmentation):
    """Crops a window of random size and shape, and enlarges it to the size of the image.

    The area of the window is uniform in [area_low, area_high], as a fraction of the image, and the logarithm of
    width/height is uniform in that of [ratio_low, ratio_high]. Height and width are rounded to pixels. The first of ten
    draws that fits into the image counts. If none fits, the window is in the centre and as large as the image and the
    interval of ratios allow. Between pixels, the window is interpolated bilinearly.

    area_low     minimum area of the window, as a fraction of the area of the image
    area_high    maximum area
    ratio_low    minimum width/height, in pixels
    ratio_high   maximum width/height

    Raises ValueError if a minimum exceeds its maximum.

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6. The draws and the interpolation are those of
    torchvision's RandomResizedCrop with the size of the image.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    area_low: Area
    area_high: Area
    ratio_low: Positive
    ratio_high: Positive

    def __post_init__(self) -> None:
        check_intervals(self, "area", "ratio")

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        rows, columns = inputs.shape[-2:]
        area, ratio = get_interval(self, "area"), get_interval(self, "ratio")
        boxes, fits = draw_boxes(key, inputs, area, ratio, (rows, columns))
        chosen = [torch.where(fits, x, y) for x, y in zip(boxes, find_central_box(rows, columns, ratio), strict=True)]
        return resize_windows(inputs, *chosen), targets


def find_central_box(rows: int, columns: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest window in the centre with a ratio in this interval."""
    low, high = ratio
    height, width = rows, columns
    if columns / rows < low:
        height = max(round(columns / low), 1)
    elif columns / rows > high:
        width = max(round(rows * high), 1)
    return (rows - height) // 2, (columns - width) // 2, height, width

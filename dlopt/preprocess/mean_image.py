"""Subtraction of the mean image."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MeanImage:
    """x <- x - m,  with the mean image m of the training split: one number per channel and pixel.

    On images this equals preprocess=center, under its usual name. preprocess=per_channel uses one mean for all pixels
    of a channel and also divides by the standard deviation. Augmentations that move the image, such as crop, misalign
    it with the mean image: use per_channel with them.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 2.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"image": inputs.double().mean(0).to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["image"]

"""Subtraction of the mean image."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MeanImage:
    """x <- x - m,  m the mean image of the training split: one number for each channel and pixel.

    On images it is what preprocess=center does, whose features are the pixels, under the name that people know.
    preprocess=per_channel has one mean for all pixels of a channel, and divides by a deviation too. With augmentations
    that move the picture, such as crop, the mean image no longer lies on it: then take per_channel.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 2.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"image": inputs.double().mean(0).to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["image"]

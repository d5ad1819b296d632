"""Subtraction of the mean image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.parts import ChunkedPreprocess
from dlopt.preprocess._feature_stats import mean


@dataclass(frozen=True)
class MeanImage(ChunkedPreprocess):
    """x <- x - m,  with the mean image m of the training split: one number per channel and pixel.

    On images this equals preprocess=center, under its usual name. preprocess=per_channel uses one mean for all pixels
    of a channel and also divides by the standard deviation. Augmentations that move the image, such as crop, misalign
    it with the mean image: use per_channel with them.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 2.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        return {"image": mean(chunks)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["image"]

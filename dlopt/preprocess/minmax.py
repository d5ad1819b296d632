"""Scaling to 0..1."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.parts import ChunkedPreprocess


@dataclass(frozen=True)
class MinMax(ChunkedPreprocess):
    """x <- (x - min) / (max - min) for each feature, with min and max over the training split.

    Training inputs fill 0..1 exactly; other inputs may lie outside. One outlier compresses all other values.
    A feature that is constant in training becomes 0, because the division is then by 1.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        bounds = [chunk.aminmax(dim=0) for chunk in chunks]
        least, largest = torch.stack([b.min for b in bounds]).amin(0), torch.stack([b.max for b in bounds]).amax(0)
        extent = largest - least
        return {"min": least, "range": extent.masked_fill(extent == 0, 1)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["min"]) / statistics["range"]

"""Scaling to 0..1."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.sequences import is_padded_series
from dlopt.parts import ChunkedPreprocess


@dataclass(frozen=True)
class MinMax(ChunkedPreprocess):
    """x <- (x - min) / (max - min) for each feature, with min and max over the training split.

    Training inputs fill 0..1 exactly; other inputs may lie outside. One outlier compresses all other values.
    A feature that is constant in training becomes 0, because the division is then by 1.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        lows, highs = zip(*map(_find_bounds, chunks), strict=True)
        least, largest = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        extent = largest - least
        return {"min": least, "range": extent.masked_fill(extent == 0, 1)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["min"]) / statistics["range"]


def _find_bounds(chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Return minimum and maximum of each feature, without the padding of series; zeros where all is padding."""
    if not is_padded_series(chunk):
        low, high = chunk.aminmax(dim=0)
        return low, high
    padding = chunk.isnan()
    low, high = chunk.masked_fill(padding, torch.inf).amin(0), chunk.masked_fill(padding, -torch.inf).amax(0)
    return low.masked_fill(padding.all(0), 0), high.masked_fill(padding.all(0), 0)

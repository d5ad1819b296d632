"""Scaling to 0..1."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MinMax:
    """x <- (x - min) / (max - min) for each feature, with min and max over the training split.

    Training inputs fill 0..1 exactly; other inputs may lie outside. One outlier compresses all other values.
    A feature that is constant in training becomes 0, because the division is then by 1.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        least, largest = inputs.aminmax(dim=0)
        extent = largest - least
        return {"min": least, "range": extent.masked_fill(extent == 0, 1)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["min"]) / statistics["range"]

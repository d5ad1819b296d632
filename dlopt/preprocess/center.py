"""Centring."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.parts import ChunkedPreprocess
from dlopt.preprocess._feature_stats import mean


@dataclass(frozen=True)
class Center(ChunkedPreprocess):
    """x <- x - mu for each feature, with the mean mu over the training split; scales do not change.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        return {"mu": mean(chunks)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return inputs - statistics["mu"]

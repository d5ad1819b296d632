"""Standardization."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.parts import ChunkedPreprocess
from dlopt.preprocess._feature_stats import mean_and_std


@dataclass(frozen=True)
class Standardize(ChunkedPreprocess):
    """x <- (x - mu) / sigma for each feature, with mu and sigma (divided by N) over the training split.

    A feature that is constant in training is only centred. The padding of series of different lengths does not
    count and stays.

    Slip: the Georgia Tech lecture says that this yields a standard normal distribution. It yields zero mean and unit
    variance; the shape of the distribution does not change.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        mu, sigma = mean_and_std(chunks)
        return {"mu": mu, "sigma": sigma}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

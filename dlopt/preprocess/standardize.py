"""Standardization."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.preprocess._feature_stats import mean_and_std


@dataclass(frozen=True)
class Standardize:
    """x <- (x - mu) / sigma for each feature, with mu and sigma (divided by N) over the training split.

    A feature that is constant in training is only centred.

    Slip: the Georgia Tech lecture says that this yields a standard normal distribution. It yields zero mean and unit
    variance; the shape of the distribution does not change.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, sigma = mean_and_std(inputs, (0,))
        return {"mu": mu[0], "sigma": sigma[0]}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

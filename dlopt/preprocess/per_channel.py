"""Standardization of channels."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.preprocess._feature_stats import mean_and_std


@dataclass(frozen=True)
class PerChannel:
    """x <- (x - mu) / sigma, with mu and sigma (divided by N) of each channel over training examples and positions.

    mu and sigma have shape (channels, 1, ...). Unlike preprocess=standardize, this keeps the pattern across positions.
    In data of shape (features,) each feature is a channel, and both options are equal. A channel that is constant in
    training is only centred.

    Source: Simonyan and Zisserman 2015, section 2.1, who only subtract the mean; the division is customary.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, sigma = mean_and_std(inputs, (0, *range(2, inputs.ndim)))
        return {"mu": mu[0], "sigma": sigma[0]}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

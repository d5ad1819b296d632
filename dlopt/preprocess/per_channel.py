"""Standardization of channels."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.preprocess._feature_stats import mean_and_std


@dataclass(frozen=True)
class PerChannel:
    """x <- (x - mu) / sigma, mu and sigma (divided by N) of each channel over examples and positions alike.

    The training split alone decides; mu and sigma have shape (channels, 1, ...). Unlike preprocess=standardize it
    leaves the pattern across positions as it is. In data of shape (features,) each feature is a channel, and both are
    the same. A channel that is constant in training is only centred.

    Source: Simonyan and Zisserman 2015, section 2.1, subtract the channel's mean; the division is customary.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, sigma = mean_and_std(inputs, (0, *range(2, inputs.ndim)))
        return {"mu": mu[0], "sigma": sigma[0]}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

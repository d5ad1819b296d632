"""Standardization of channels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.parts import ChunkedPreprocess
from dlopt.preprocess._feature_stats import mean_and_std


@dataclass(frozen=True)
class PerChannel(ChunkedPreprocess):
    """x <- (x - mu) / sigma, with mu and sigma (divided by N) of each channel over training examples and positions.

    mu and sigma have shape (channels, 1, ...). Unlike preprocess=standardize, this keeps the pattern across positions.
    In data of shape (features,) each feature is a channel, and both options are equal. A channel that is constant in
    training is only centred. The padding of series of different lengths does not count and stays.

    Source: Simonyan and Zisserman 2015, section 2.1, who only subtract the mean; the division is customary.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        mu, sigma = mean_and_std(chunks, of_channels=True)
        return {"mu": mu, "sigma": sigma}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

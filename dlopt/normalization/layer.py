"""Layer normalization."""

from dataclasses import dataclass

from torch import nn

from dlopt.ranges import Positive


@dataclass(frozen=True)
class LayerNormalization:
    """Layer normalization: each example is standardized by the mean and variance of its own features.

        y = gamma (x - mean) / sqrt(var + eps) + beta

    mean and var (the biased one) are over features and, for convolutions, over positions; gamma and beta are learned,
    one of each per feature. It is torch's LayerNorm for vectors, and GroupNorm with one group for convolutions. It has
    no running statistics: training and inference are the same, for any batch.

    eps   added to the variance, so that an example with equal features does not divide by zero; a layer with a single
          feature gives only beta

    Source: Ba, Kiros and Hinton 2016, equations 3 and 4.
    """

    eps: Positive

    def __call__(self, features: int, dims: int) -> nn.Module:
        return nn.GroupNorm(1, features, self.eps) if dims else nn.LayerNorm(features, self.eps)

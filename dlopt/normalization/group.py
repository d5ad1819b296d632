"""Group normalization."""

from dataclasses import dataclass

from torch import nn

from dlopt.errors import join_truncated
from dlopt.ranges import Count, Positive


@dataclass(frozen=True)
class GroupNormalization:
    """Group normalization: each example is standardized by mean and variance of its features, a group at a time.

        y = gamma (x - mean) / sqrt(var + eps) + beta

    The C features are split, in order, into groups of C / groups; mean and var (the biased one) are over the features
    of a group and, for convolutions, over positions. gamma and beta are learned, one of each per feature. One group is
    normalization=layer; one group per feature of a convolution is instance normalization. Training and inference are
    the same, for any batch.

    groups   number of groups; it must divide the features of each layer, and a group must hold more than one number: on
             layers without positions at most half of the features
    eps      added to the variance, so that a group of equal numbers does not divide by zero

    Source: Wu and He 2018, equations 1 to 7.
    """

    groups: Count
    eps: Positive

    def __call__(self, features: int, dims: int) -> nn.Module:
        usable = [n for n in range(1, features + 1) if features % n == 0 and (dims or n < features)]
        if self.groups not in usable:
            small = "" if features % self.groups else ": each would hold one number"
            remedy = f"use {join_truncated(map(str, usable))}" if usable else "use normalization=batch"
            raise ValueError(
                f"{features} features of a layer cannot be cut into normalization.groups={self.groups}{small}; {remedy}"
            )
        return nn.GroupNorm(self.groups, features, self.eps)

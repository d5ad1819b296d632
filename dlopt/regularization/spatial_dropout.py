"""Spatial dropout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.parts import Regularization, StochasticSite
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class SpatialDropout(Regularization):
    """Spatial dropout: sets whole features to zero with probability p in training, at all positions together.

        training h <- m h / (1 - p),  inference h

    m is drawn for each feature of each example at each step: 0 with probability p, else 1, and the same at all
    positions of a series or an image and at all steps of a sequence. Neighbouring positions are strongly correlated, so
    regularization=dropout, which drops single positions, leaves most of the information. Units without positions are
    dropped as in dropout. It acts where dropout does: after the hidden layers of the network.

    p   probability of dropping a feature

    Source: Tompson, Goroshin, Jain, LeCun and Bregler 2015, section 3.2.
    """

    p: Fraction

    def module(self, site: int) -> StochasticSite:
        return SpatialDropoutSite(self, site)


class SpatialDropoutSite(StochasticSite):
    """Spatial dropout at one site of a network."""

    regularization: SpatialDropout

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        axis = self.feature_dim % x.ndim
        shape = tuple(n if i in (0, axis) else 1 for i, n in enumerate(x.shape))
        dropped = prng.bernoulli(self.next_key(), self.regularization.p, shape, x.device)
        return torch.where(dropped, 0.0, x / (1.0 - self.regularization.p))

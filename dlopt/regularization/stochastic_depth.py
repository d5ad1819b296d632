"""Stochastic depth."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.parts import Regularization, StochasticSite
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class StochasticDepth(Regularization):
    """Stochastic depth: leaves out residual branches at random in training.

        training x + m F(x) / (1 - p_l),  inference x + F(x)
        decay=linear   p_l = p l / L,  l = 1, ..., L      decay=uniform   p_l = p

    m is 0 with probability p_l, else 1. The network is shorter in training, on average by half of p of its branches
    with decay=linear, and all branches are used in inference. It takes an architecture with residual branches: resnet,
    whose L branches have two convolutions each, or transformer, whose blocks have two branches each.

    The paper leaves out a branch for a whole mini-batch (mode=batch), and multiplies by 1 - p_l in inference in place
    of the division in training, which is the same family of networks. timm and torchvision draw for each example
    (mode=row) and divide. Branches that are left out are computed all the same, so no time is saved, and a batch
    normalization in them counts all examples.

    p       probability of leaving out the last branch; the paper has 0.5
    decay   linear: rises from p / L at the first branch to p at the last one; uniform: the same for all
    mode    row: drawn for each example; batch: once for the mini-batch, or for each part of micro_batch_size

    Source: Huang, Sun, Liu, Sedra and Weinberger 2016, equations 2, 4 and 5.
    """

    p: Fraction
    decay: Literal["linear", "uniform"]
    mode: Literal["row", "batch"]

    def branch(self, index: int, count: int) -> StochasticSite:
        return StochasticDepthSite(self, index, (index + 1) / count if self.decay == "linear" else 1.0)


class StochasticDepthSite(StochasticSite):
    """The end of one residual branch."""

    regularization: StochasticDepth

    def __init__(self, rule: StochasticDepth, index: int, fraction: float) -> None:
        super().__init__(rule, index)
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        p = self.regularization.p * self.fraction
        shape = (len(x) if self.regularization.mode == "row" else 1, *[1] * (x.ndim - 1))
        dropped = prng.bernoulli(self.next_key(), p, shape, x.device)
        return torch.where(dropped, 0.0, x / (1.0 - p))

"""Adadelta."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class AdadeltaState(NamedTuple):
    square: Tensor  # (..., P), average of g^2
    change: Tensor  # (..., P), average of d^2


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """E <- decay E + (1 - decay) g^2,  d = g sqrt(D + eps) / sqrt(E + eps),  D <- decay D + (1 - decay) d^2,
    w <- w - lr d.

    D is what the weights themselves have moved by lately, so that d has the unit of a weight, as a Newton step has, and
    no rate is needed: lr = 1 is the paper's rule. D starts at zero, and the first step of each weight is
    sqrt(eps / (1 - decay)) long at lr = 1, 0.003 with the usual numbers: eps, inside both roots here, decides how fast
    the rule gets going.

    lr      factor of the step
    decay   rho, of both averages
    eps     of which the first steps are made

    Source: Zeiler 2012, algorithm 1; the factor lr is torch's.
    """

    lr: Positive
    decay: Fraction
    eps: Positive

    def init(self, w: Tensor, layout: Layout) -> AdadeltaState:
        return AdadeltaState(torch.zeros_like(w), torch.zeros_like(w))

    def step(self, w: Tensor, state: AdadeltaState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for w_, square, change, g_ in cache_chunks(w, *state, g):
            square.lerp_(g_ * g_, 1 - self.decay)
            d = (change + self.eps).div_(square + self.eps).sqrt_().mul_(g_)
            change.lerp_(d * d, 1 - self.decay)
            axpy_(w_, -self.lr, d)
        return Step(w, state, loss, g)

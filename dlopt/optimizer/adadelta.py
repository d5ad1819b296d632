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
    """Adadelta: scales each step by the RMS of recent updates over the RMS of recent gradients.

        E <- decay E + (1 - decay) g^2,  d = g sqrt(D + eps) / sqrt(E + eps),  D <- decay D + (1 - decay) d^2
        w <- w - lr d

    D averages the squared updates d^2, so d has the unit of a weight, as a Newton step has. lr = 1 is the paper's
    method. D starts at zero, so the first step of each weight is about lr sqrt(eps / (1 - decay)), 0.003 with the
    defaults: eps, inside both roots, decides how fast training starts.

    lr      factor of the step
    decay   rho, of both averages
    eps     added inside both roots; sets the size of the first steps

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

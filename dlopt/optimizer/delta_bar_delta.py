"""Delta-bar-delta."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class DeltaBarDeltaState(NamedTuple):
    rate: Tensor  # (..., P), in units of lr
    trace: Tensor  # (..., P), average of g before this step


@dataclass(frozen=True)
class DeltaBarDelta(Optimizer):
    """Delta-bar-delta: a learning rate per weight, adapted by the signs of its gradients.

        r_i <- r_i + kappa         if g_i has the sign of trace_i
        r_i <- (1 - phi) r_i       if it has the other sign;  r_i stays if either is zero
        w_i <- w_i - lr r_i g_i,   trace_i <- theta trace_i + (1 - theta) g_i

    r_i starts at 1. Rates grow by addition, so that none grows too fast, and shrink by a factor: fast, and never to
    zero. Jacobs designed it for whole gradients, batch_size=full. If the signs are noise, half of them agree and a rate
    stays around kappa / phi. Rates are multiples of lr, so a schedule scales all of them; Jacobs's kappa is lr kappa.

    lr      learning rate of each weight at the first step
    kappa   increment of a rate, as a multiple of lr
    phi     fraction by which a rate shrinks
    theta   decay of the trace

    Source: Jacobs 1988, Increased rates of convergence through learning rate adaptation, Neural Networks 1.
    """

    lr: Positive
    kappa: NonNegative
    phi: Fraction
    theta: Fraction

    def init(self, w: Tensor, layout: Layout) -> DeltaBarDeltaState:
        return DeltaBarDeltaState(torch.ones_like(w), torch.zeros_like(w))

    def step(self, w: Tensor, state: DeltaBarDeltaState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for w_, rate, trace, g_ in cache_chunks(w, *state, g):
            agreement = g_.sign().mul_(trace.sign())
            same, turned = agreement.clamp(min=0.0), agreement.clamp(max=0.0)  # 1 or 0, -1 or 0: faster than where
            rate.mul_((turned * self.phi).add_(1)).add_(same * self.kappa)
            trace.lerp_(g_, 1 - self.theta)
            axpy_(w_, -self.lr, rate * g_)
        return Step(w, state, loss, g)

"""The delta-bar-delta rule."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class DeltaBarDeltaState(NamedTuple):
    rate: Tensor  # (..., P), of each weight, in units of lr
    trace: Tensor  # (..., P), average of g up to the step before


@dataclass(frozen=True)
class DeltaBarDelta(Optimizer):
    """w_i <- w_i - lr r_i g_i, where the rate r_i, 1 at first, takes in the sign of g_i before it is used:

        the sign of the trace   r_i <- r_i + kappa
        the other sign          r_i <- (1 - phi) r_i
        either is zero          r_i stays

    and then the trace, delta-bar, takes in the gradient, delta:  trace_i <- theta trace_i + (1 - theta) g_i.

    Rates grow by addition, so that none grows too fast, and fall by multiplication: fast, and never to zero or below.
    Jacobs made it for whole gradients, batch_size=full. Where signs are those of noise, half agree and half do not, and
    a rate stays about kappa / phi times lr. Rates are multiples of lr, kappa too: Jacobs's kappa is lr kappa here,
    and a schedule of the rate scales all of them.

    lr      the rate of each weight at the first step
    kappa   what is added to a rate, a multiple of lr
    phi     share of a rate that is taken away
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
            same, turned = agreement.clamp(min=0.0), agreement.clamp(max=0.0)  # 1 or 0, and -1 or 0: quicker than where
            rate.mul_((turned * self.phi).add_(1)).add_(same * self.kappa)
            trace.lerp_(g_, 1 - self.theta)
            axpy_(w_, -self.lr, rate * g_)
        return Step(w, state, loss, g)

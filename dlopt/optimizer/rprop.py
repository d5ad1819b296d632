"""Rprop: resilient propagation."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Positive, Range


class RpropState(NamedTuple):
    size: Tensor  # (..., P), step size in units of lr
    direction: Tensor  # (..., P), sign of the last gradient, 0 where it was not followed


@dataclass(frozen=True)
class Rprop(Optimizer):
    """Rprop: a step size per weight, adapted by the signs of its gradients only.

        s_i <- min(eta_plus s_i, step_max)    if g_i has the sign of the step before
        s_i <- max(eta_minus s_i, step_min)   if it has the other sign; then g_i counts as 0, now and at the next step
        w_i <- w_i - lr s_i sign(g_i)

    s_i starts at 1 and stays if either sign is zero. A change of sign means that a step crossed a minimum: the weight
    waits for one step, then goes back with the smaller size. The step across is not undone. This is the variant iRprop-
    of Igel and Huesken, as in torch.

    Use it with whole gradients, batch_size=full. It fails on mini-batches: nine gradients of +0.1 and one of -0.9 have
    mean zero, but nine steps go one way, each longer than the one before.

    Sizes and bounds are multiples of lr, so a schedule scales every step. At a constant rate these are torch's steps,
    whose bounds 1e-6 and 50 are the multiples 1e-4 and 5000 of its first step, 0.01.

    lr          size of the first step of each weight
    eta_minus   factor of a size after a change of sign
    eta_plus    factor of a size while the sign stays
    step_min    minimum size, as a multiple of lr
    step_max    maximum size, as a multiple of lr

    Slip: the CMU lecture says that the gradient is scaled, and that steps grow from the third on. Only the sign of a
    gradient is used, and the second step is the first that can be longer.

    Source: Riedmiller and Braun 1993; Igel and Huesken 2000, iRprop-; the form of torch.optim.Rprop.
    """

    lr: Positive
    eta_minus: Annotated[float, Range(gt=0, lt=1)]
    eta_plus: Annotated[float, Range(gt=1)]
    step_min: Annotated[float, Range(gt=0, le=1)]
    step_max: Annotated[float, Range(ge=1)]

    def init(self, w: Tensor, layout: Layout) -> RpropState:
        return RpropState(torch.ones_like(w), torch.zeros_like(w))

    def step(self, w: Tensor, state: RpropState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for w_, size, direction, g_ in cache_chunks(w, *state, g):
            sign = g_.sign()
            agreement = direction.mul_(sign)
            same, turned = agreement.clamp(min=0.0), agreement.clamp(max=0.0)  # 1 or 0, -1 or 0: faster than where
            size.mul_((same * (self.eta_plus - 1)).add_(turned * (1 - self.eta_minus)).add_(1))
            size.clamp_(min=self.step_min).clamp_(max=self.step_max)
            torch.mul(sign, turned.add_(1), out=direction)
            axpy_(w_, -self.lr, direction * size)
        return Step(w, state, loss, g)

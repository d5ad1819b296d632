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
    size: Tensor  # (..., P), of each weight's step, in units of lr
    direction: Tensor  # (..., P), sign of the gradient before, 0 where it was not followed


@dataclass(frozen=True)
class Rprop(Optimizer):
    """w_i <- w_i - lr s_i sign(g_i), where the size s_i, 1 at first, takes in the sign of g_i before it is used:

        the same sign as before   s_i <- min(eta_plus s_i, step_max)
        the other sign            s_i <- max(eta_minus s_i, step_min), and g_i counts as zero, now and at the next step
        either is zero            s_i stays

    After a change of sign, which means that a minimum was leapt over, a weight waits for one step and then goes back
    half as fast; the step that leapt is not taken back. (torch has this variant, known as iRprop-, and so do we.)

    It is for whole gradients, batch_size=full. On mini-batches it fails: nine gradients of +0.1 and one of -0.9 have
    the mean zero, but nine steps go one way, each longer than the one before.

    Sizes and their bounds are multiples of lr, so that a schedule of the rate scales every step. At a constant rate
    these are torch's steps, whose bounds 1e-6 and 50 are multiples 1e-4 and 5000 of its first step, 0.01.

    Slip: the CMU lecture says that the gradient is scaled, and that steps grow from the third on. Only the sign of a
    gradient is used, whatever its size, and the second step is the first that can be longer.

    lr          the size of each weight's first step
    eta_minus   factor of a size where the sign has changed
    eta_plus    factor of a size where it has not
    step_min    the smallest size, a multiple of lr
    step_max    the largest size, a multiple of lr

    Source: Riedmiller and Braun 1993; Igel and Huesken 2000, iRprop-; torch.optim.Rprop's form.
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
            same, turned = agreement.clamp(min=0.0), agreement.clamp(max=0.0)  # 1 or 0, and -1 or 0: quicker than where
            size.mul_((same * (self.eta_plus - 1)).add_(turned * (1 - self.eta_minus)).add_(1))
            size.clamp_(min=self.step_min).clamp_(max=self.step_max)
            torch.mul(sign, turned.add_(1), out=direction)
            axpy_(w_, -self.lr, direction * size)
        return Step(w, state, loss, g)

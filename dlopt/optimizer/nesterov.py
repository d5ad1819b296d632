"""Nesterov's accelerated gradient."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class NesterovState(NamedTuple):
    v: Tensor  # (..., P)


@dataclass(frozen=True)
class Nesterov(Optimizer):
    """v <- momentum v + g,  w <- w - lr (g + momentum v).

    This is torch's form, and w here is the look-ahead point of the textbook's. There the gradient is taken where the
    velocity is about to lead,

        v <- momentum v + g(x - lr momentum v),  x <- x - lr v,

    and w = x - lr momentum v obeys the line above while lr and momentum are constant: so gradient, loss and logged
    weights all belong to one point, and a step costs one gradient.

    On a quadratic it is stable for lr < 2 (1 + momentum) / ((1 + 2 momentum) lambda_max). Its O(1/k^2) is for convex
    functions and exact gradients, and does not carry over to mini-batches.

    Slip: the Georgia Tech lecture looks ahead at x + momentum v although it steps by x - lr v, which looks back, and
    without the rate. The Ren lecture's O(1/k) for stochastic gradients holds for strongly convex functions alone.

    lr         learning rate
    momentum   share of the velocity that a step keeps

    Source: Nesterov 1983; Sutskever, Martens, Dahl and Hinton 2013, equations 3 and 4; torch.optim.SGD's form.
    """

    lr: Positive
    momentum: Fraction

    def init(self, w: Tensor, layout: Layout) -> NesterovState:
        return NesterovState(torch.zeros_like(w))

    def step(self, w: Tensor, state: NesterovState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        fits = fused_available(w) and self.momentum > 0.0
        update = self.update_fused if fits else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: NesterovState, g: Tensor) -> tuple[Tensor, NesterovState]:
        """The formula as it stands above, in place, for any leading dimensions."""
        v = state.v.mul_(self.momentum).add_(g)
        return axpy_(axpy_(w, -self.lr, g), -self.lr * self.momentum, v), NesterovState(v)

    def update_fused(self, w: Tensor, state: NesterovState, g: Tensor) -> tuple[Tensor, NesterovState]:
        """The same in torch's fused kernel: one pass over memory, for a single run; it refuses momentum 0."""
        torch._fused_sgd_(
            [w], [g], [state.v], lr=self.lr, momentum=self.momentum, nesterov=True, dampening=0.0, weight_decay=0.0,
            maximize=False, is_first_step=False,
        )  # fmt: skip
        return w, state

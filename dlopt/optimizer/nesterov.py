"""Nesterov's accelerated gradient."""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """Nesterov's accelerated gradient.

        v <- momentum v + g,  w <- w - lr (g + momentum v)

    This is the form of torch, where w is the look-ahead point x - lr momentum v of the textbook:

        v <- momentum v + g(x - lr momentum v),  x <- x - lr v

    The two agree while lr and momentum are constant. In this form gradient, loss and logged weights belong to one
    point. On a quadratic it is stable for lr < 2 (1 + momentum) / ((1 + 2 momentum) lambda_max). Its rate O(1 / k^2) is
    for convex functions and exact gradients, and does not carry over to mini-batches.

    lr         learning rate
    momentum   fraction of the velocity that a step keeps

    Slip: the Georgia Tech lecture looks ahead at x + momentum v although it steps by x - lr v, which looks back, and
    without the learning rate. The Ren lecture's O(1 / k) for stochastic gradients holds only for strongly convex
    functions.

    Source: Nesterov 1983; Sutskever, Martens, Dahl and Hinton 2013, equations 3 and 4; the form of torch.optim.SGD.
    """

    lr: Positive
    momentum: Fraction

    def init(self, w: Tensor, layout: Layout) -> NesterovState:
        return NesterovState(torch.zeros_like(w))

    def step(self, w: Tensor, state: NesterovState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        if fused_available(w) and self.momentum > 0.0:  # one pass over memory; the kernel refuses momentum 0
            torch._fused_sgd_(
                [w], [g], [state.v], lr=self.lr, momentum=self.momentum, nesterov=True, dampening=0.0,
                weight_decay=0.0, maximize=False, is_first_step=False,
            )  # fmt: skip
        else:
            v = state.v.mul_(self.momentum).add_(g)
            axpy_(axpy_(w, -self.lr, g), -self.lr * self.momentum, v)
        return Step(w, state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 * (1 + self.momentum) / ((1 + 2 * self.momentum) * self.lr)

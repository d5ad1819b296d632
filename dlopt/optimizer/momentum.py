"""Gradient descent with momentum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available, is_positive
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class HeavyBallState(NamedTuple):
    v: Tensor  # (..., P)
    fresh: Tensor  # (), 1 before the first step, then 0


@dataclass(frozen=True)
class HeavyBall(Optimizer):
    """Gradient descent with heavy-ball momentum.

        v <- momentum v + (1 - dampening) g,  w <- w - lr v

    Without dampening, v is a geometric sum of gradients: under a constant gradient the speed tends to
    lr |g| / (1 - momentum). With dampening = momentum, v is an average of gradients, and lr means what it means without
    momentum. The first step takes v = g without dampening, as in torch, so an average starts at the first gradient, not
    at zero. On a quadratic it is stable for lr < 2 (1 + momentum) / ((1 - dampening) lambda_max).

    lr          learning rate
    momentum    fraction of the velocity that a step keeps
    dampening   fraction of a gradient that the velocity leaves out

    Slip: the Georgia Tech and Ren lectures call v <- momentum v + g a moving average of gradients; it is their sum. The
    KTH lecture's t <- momentum g accumulates nothing; right: t <- momentum t + lr g, w <- w - t. The NYU and CMU
    lectures put the learning rate inside the velocity in this way. The steps are the same while the rate is constant;
    if it changes, an old gradient keeps the rate of its own step.

    Source: Polyak 1964; the form of torch.optim.SGD.
    """

    lr: Positive
    momentum: Fraction
    dampening: Fraction

    def init(self, w: Tensor, layout: Layout) -> HeavyBallState:
        return HeavyBallState(torch.zeros_like(w), torch.ones((), dtype=w.dtype, device=w.device))

    def step(self, w: Tensor, state: HeavyBallState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        # In lanes, all gradients are dampened if some are, with a factor of 1 for the others.
        dampened = is_positive(self.dampening)
        if not dampened and fused_available(w) and self.momentum > 0.0:  # one pass over memory
            torch._fused_sgd_(
                [w], [g], [state.v], lr=self.lr, momentum=self.momentum, nesterov=False, dampening=0.0,
                weight_decay=0.0, maximize=False, is_first_step=False,
            )  # fmt: skip
        else:
            factor = 1 - self.dampening * (1 - state.fresh) if dampened else 1.0
            axpy_(w, -self.lr, axpy_(state.v.mul_(self.momentum), factor, g))
        state.fresh.zero_()
        return Step(w, state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 * (1 + self.momentum) / ((1 - self.dampening) * self.lr)

"""Gradient descent with momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class HeavyBallState(NamedTuple):
    v: Tensor  # (..., P)
    fresh: Tensor  # (), 1 before the first step and 0 from there on


@dataclass(frozen=True)
class HeavyBall(Optimizer):
    """v <- momentum v + (1 - dampening) g,  w <- w - lr v.

    Without dampening v is a geometric sum of gradients, 1 / (1 - momentum) times as large as their average: under a
    constant gradient the speed tends to lr |g| / (1 - momentum). With dampening = momentum v is the average itself,
    and a rate means what it means without momentum. The first step takes v = g undampened, as torch does: so an average
    starts at the first gradient and not at zero. On a quadratic it is stable for
    lr < 2 (1 + momentum) / ((1 - dampening) lambda_max).

    Slip: the Georgia Tech and Ren lectures call v <- momentum v + g a moving average of gradients; it is their sum. The
    KTH lecture's t <- momentum g gathers nothing; right: t <- momentum t + lr g, w <- w - t. The NYU and CMU lectures
    put the rate inside the velocity in this way: the same steps while the rate is constant, and others when it moves,
    since an old gradient then keeps the rate of its own step.

    lr          learning rate
    momentum    share of the velocity that a step keeps
    dampening   share of a gradient that the velocity does not take in

    Source: Polyak 1964; torch.optim.SGD's form.
    """

    lr: Positive
    momentum: Fraction
    dampening: Fraction

    def init(self, w: Tensor, layout: Layout) -> HeavyBallState:
        return HeavyBallState(torch.zeros_like(w), torch.ones((), dtype=w.dtype, device=w.device))

    def step(self, w: Tensor, state: HeavyBallState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        sums = not self._dampens and not isinstance(self.momentum, Tensor) and self.momentum > 0.0
        fits = sums and fused_available(w)
        update = self.update_fused if fits else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: HeavyBallState, g: Tensor) -> tuple[Tensor, HeavyBallState]:
        """The formula as it stands above, in place, for any leading dimensions."""
        taken = 1 - self.dampening * (1 - state.fresh) if self._dampens else 1.0
        v = axpy_(state.v.mul_(self.momentum), taken, g)
        return axpy_(w, -self.lr, v), HeavyBallState(v, state.fresh.zero_())

    def update_fused(self, w: Tensor, state: HeavyBallState, g: Tensor) -> tuple[Tensor, HeavyBallState]:
        """The rule without dampening in torch's fused kernel: one pass over memory, for a single run."""
        torch._fused_sgd_(
            [w], [g], [state.v], lr=self.lr, momentum=self.momentum, nesterov=False, dampening=0.0, weight_decay=0.0,
            maximize=False, is_first_step=False,
        )  # fmt: skip
        state.fresh.zero_()
        return w, state

    @property
    def _dampens(self) -> bool:
        """Whether gradients are dampened; in lanes, where some are and some not, all are, some by nothing."""
        return isinstance(self.dampening, Tensor) or self.dampening > 0.0

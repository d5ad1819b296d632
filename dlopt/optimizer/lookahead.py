"""Lookahead."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._wrapped import WrappedOptimizer
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Count, Range


class LookaheadState(NamedTuple):
    base: Any  # the state of base_optimizer
    slow: Tensor  # (..., P), the slow weights
    t: int  # steps taken, on the host, which has to know when the slow weights are due


@dataclass(frozen=True)
class Lookahead(WrappedOptimizer):
    """Lookahead: k steps of base_optimizer, then back to a point between their start and their end.

        w <- a step of base_optimizer from w;  after every k-th step:  s <- s + alpha (w - s),  w <- s

    s are the slow weights, at first the initial ones, and w the fast weights. The interpolation averages out steps that
    go back and forth, so larger learning rates are stable. alpha = 1 is base_optimizer itself. The state of
    base_optimizer, such as its momentum, is kept at the interpolation. Schedules and weight decay use the learning rate
    of base_optimizer.

    w is what is evaluated and saved. It equals the slow weights after every k-th step, so a number of steps that is a
    multiple of k ends at them. The source evaluates the slow weights.

    s is taken from w at the start of each k steps. So it includes what a regularization has done to w after the step
    before, such as a decay or a limit of the norms.

    k                number of steps of base_optimizer for each step of the slow weights
    alpha            step size of the slow weights, as a fraction of the way; 0.8 in the authors' code, 0.5 is common
    base_optimizer   the inner optimizer, with its own keys: optimizer.base_optimizer=adam

    Source: Zhang, Lucas, Hinton and Ba 2019, algorithm 1; the state of the inner optimizer as in the authors' code,
    pullback_momentum="none".
    """

    k: Count
    alpha: Annotated[float, Range(gt=0, le=1)]

    def init(self, w: Tensor, layout: Layout) -> LookaheadState:
        return LookaheadState(self.base_optimizer.init(w, layout), w.clone(), 0)

    def step(self, w: Tensor, state: LookaheadState, objective: ObjectiveOracle) -> Step:
        if state.t % self.k == 0:
            state.slow.copy_(w)
        result = self.base_optimizer.step(w, state.base, objective)
        after = state._replace(base=result.state, t=state.t + 1)
        if after.t % self.k:
            return result._replace(state=after)
        return result._replace(
            w=torch.lerp(state.slow, result.w, self.alpha, out=result.w), state=after, next_gradient=None
        )

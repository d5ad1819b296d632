"""Steepest descent with a line search."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._line import dot, measure_fall, repeat_fall
from dlopt.parts import LineSearch, ObjectiveOracle, Optimizer, Step


class SteepestDescentState(NamedTuple):
    fall: Tensor  # (..., 1), of f in the latest step


@dataclass(frozen=True)
class SteepestDescent(Optimizer):
    """Steepest descent: a step along the negative gradient whose length is searched for.

        w <- w - alpha g

    With linesearch=exact, alpha = g'g / g'Hg, the optimal step of a quadratic. Successive directions are then
    orthogonal, and in each step f - f* falls at least by the factor ((k - 1) / (k + 1))^2 for the condition number k of
    H. So it zigzags through long valleys. linesearch=fixed is gradient descent.

    armijo and strong_wolfe first try 2.02 fall / g'g for the fall of f in the step before, at first min(1, 1 / |g|).
    Gradients are those of a mini-batch; with batch_size=full, one that the search has evaluated is not evaluated again.

    linesearch   the line search, with its own keys: optimizer.linesearch=armijo

    Source: Cauchy 1847; Nocedal and Wright 2006, section 3.3, equations 3.29 and 3.60.
    """

    needs_true_gradient = True

    linesearch: LineSearch

    @property
    def decides_on_host(self) -> bool:  # type: ignore[override]
        return self.linesearch.decides_on_host

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.linesearch.uses_curvature

    def init(self, w: Tensor, layout: Layout) -> SteepestDescentState:
        return SteepestDescentState(torch.zeros_like(w[..., :1]))

    def step(self, w: Tensor, state: SteepestDescentState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        first = repeat_fall(state.fall, -dot(g, g))
        taken = self.linesearch.search(w, -g, loss, g, objective, first, c2=0.1)
        return Step(taken.w, SteepestDescentState(measure_fall(loss, taken)), loss, g, taken.info, taken.gradient)

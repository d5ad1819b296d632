"""Nonlinear conjugate gradients."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._line import dot, find_next_gradient, measure_fall, repeat_fall, replace_ascent
from dlopt.parts import LineSearch, ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Positive


class ConjugateGradientState(NamedTuple):
    d: Tensor  # (..., P), the direction of the latest step
    beta: Tensor  # (..., 1), its factor in the next direction; 0 restarts
    fall: Tensor  # (..., 1), of f in the latest step
    steps: int


@dataclass(frozen=True)
class ConjugateGradient(Optimizer):
    """Nonlinear conjugate gradients: each direction keeps a part of the one before.

        w <- w + alpha d,   d <- -g + beta d,   y = g_new - g

        fletcher_reeves       beta = g_new'g_new / g'g
        polak_ribiere_plus    beta = max(0, g_new'y / g'g)
        hestenes_stiefel      beta = g_new'y / d'y
        dai_yuan              beta = g_new'g_new / d'y

    On a quadratic with linesearch=exact all four are the linear method of conjugate gradients, and end after as many
    steps as H has different eigenvalues, at most P. A direction takes three vectors of memory.

    It restarts with d = -g where d is not a direction of descent, where successive gradients are far from orthogonal,
    |g_new'g| >= orthogonality |g_new|^2, and every restart_every steps. Both gradients in beta are of one mini-batch:
    with batch_size=full a step costs its search, else one gradient more. Searches first try the length of
    steepest_descent, at most 1.

    beta            the formula
    orthogonality   ratio of |g_new'g| to |g_new|^2 from which on it restarts; null: do not compare them
    restart_every   steps between restarts, for example the number of weights; null: do not count
    linesearch      the line search, with its own keys: optimizer.linesearch=armijo

    Source: Fletcher and Reeves 1964; Polak and Ribiere 1969; Hestenes and Stiefel 1952; Dai and Yuan 1999; Nocedal and
    Wright 2006, algorithm 5.4, equations 5.41 to 5.52.
    """

    needs_true_gradient = True
    decides_on_host = True

    beta: Literal["fletcher_reeves", "polak_ribiere_plus", "hestenes_stiefel", "dai_yuan"]
    orthogonality: Positive | None
    restart_every: Count | None
    linesearch: LineSearch

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.linesearch.uses_curvature

    def init(self, w: Tensor, layout: Layout) -> ConjugateGradientState:
        nothing = torch.zeros_like(w[..., :1])
        return ConjugateGradientState(torch.zeros_like(w), nothing, nothing, 0)

    def step(self, w: Tensor, state: ConjugateGradientState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        d, _ = replace_ascent(torch.addcmul(-g, state.d, state.beta), g)
        first = repeat_fall(state.fall, dot(d, g)).clamp(max=1.0)
        taken = self.linesearch.search(w, d, loss, g, objective, first, c2=0.1)
        next_g = find_next_gradient(taken, objective)
        steps = state.steps + 1
        after = ConjugateGradientState(d, self._compute_beta(d, g, next_g, steps), measure_fall(loss, taken), steps)
        return Step(taken.w, after, loss, g, taken.info, next_g)

    def _compute_beta(self, d: Tensor, g: Tensor, next_g: Tensor, steps: int) -> Tensor:
        """Return beta, (..., 1); 0 for a restart."""
        new, mixed = dot(next_g, next_g), dot(next_g, g)
        above = new if self.beta in ("fletcher_reeves", "dai_yuan") else new - mixed
        is_by_gradient = self.beta in ("fletcher_reeves", "polak_ribiere_plus")
        beta = above / (dot(g, g) if is_by_gradient else dot(d, next_g) - dot(d, g))
        if self.beta == "polak_ribiere_plus":
            beta = beta.clamp(min=0.0)
        restarts = ~beta.isfinite()
        if self.orthogonality is not None:
            restarts |= mixed.abs() >= self.orthogonality * new
        if self.restart_every is not None and steps % self.restart_every == 0:
            restarts = torch.ones_like(restarts)
        return beta.masked_fill(restarts, 0.0)

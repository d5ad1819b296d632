"""The limited-memory BFGS method."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._line import dot, find_next_gradient, is_positive_pair, limit_first, replace_ascent
from dlopt.parts import LineSearch, ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, NonNegative


class LBFGSState(NamedTuple):
    pairs: Tensor  # (..., 2, history + 1, P), s and y; one row is spare, for the pair of the next step
    rho: Tensor  # (..., history + 1), 1 / s'y; 0 for a pair that is left out
    gamma: Tensor  # (..., 1), s'y / y'y of the latest pair
    n_pairs: int  # pair i of the run is in row i % (history + 1)


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """Limited-memory BFGS: quasi-Newton steps by the latest secant pairs, without a matrix.

        w <- w + alpha d,   d = -H g,   s = alpha d,   y = g(w + alpha d) - g(w)

    H is the matrix of bfgs after the updates by the pairs in memory, from gamma I with gamma = s'y / y'y of the latest.
    It is applied by the two-loop recursion, newest pair first, then oldest first:

        q = g;  a_i = s_i'q / s_i'y_i,  q <- q - a_i y_i;   q <- gamma q;   q <- q + (a_i - y_i'q / s_i'y_i) s_i

    alpha comes from the line search, which tries 1 first; without pairs min(1, 1 / |g|). With the exact search it ends
    on a quadratic after P steps, for any history. Both gradients of a pair are of one mini-batch: with batch_size=full
    a step costs its search, else one gradient more. On small batches their noise dominates the pairs.

    A pair is left out unless s'y > curvature |s| |y|, and the older ones stay; strong_wolfe yields s'y > 0 unless it
    fails. In lanes a pair that is left out takes its place in the history if another lane has one. Where d is no
    direction of descent or not finite, or a search finds no step, the pairs are forgotten and -g is followed.

    history      number of pairs, 3 to 20; they take 2 (history + 1) P numbers of memory
    curvature    smallest cosine between s and y in a pair
    linesearch   the line search, with its own keys: optimizer.linesearch=armijo

    Source: Nocedal 1980; Liu and Nocedal 1989; Nocedal and Wright 2006, algorithms 7.4 and 7.5, equation 7.20.
    """

    needs_true_gradient = True
    decides_on_host = True

    history: Count
    curvature: NonNegative
    linesearch: LineSearch

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.linesearch.uses_curvature

    def init(self, w: Tensor, layout: Layout) -> LBFGSState:
        lead, size = w.shape[:-1], w.shape[-1]
        pairs, rho = w.new_zeros(*lead, 2, self.history + 1, size), w.new_zeros(*lead, self.history + 1)
        return LBFGSState(pairs, rho, torch.ones_like(w[..., :1]), 0)

    def step(self, w: Tensor, state: LBFGSState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        pairs, rho, gamma, n_pairs = state
        row = n_pairs % (self.history + 1)
        rho[..., row] = 0.0
        d, lost = replace_ascent(apply_inverse(state, g).neg_(), g)
        rho = rho.masked_fill(lost, 0.0)
        has_pairs = (rho > 0).any(-1, keepdim=True)
        taken = self.linesearch.search(w, d, loss, g, objective, limit_first(g, ~has_pairs))
        next_g = find_next_gradient(taken, objective)

        s, y = pairs[..., 0, row, :], pairs[..., 1, row, :]
        torch.mul(d, taken.alpha, out=s)
        torch.sub(next_g, g, out=y)
        accepted = is_positive_pair(s, y, self.curvature)
        if not accepted.all():  # a row that is not finite would stay so when it is multiplied by zero
            pairs[..., row, :].masked_fill_(~accepted.unsqueeze(-1), 0.0)
        sy = dot(s, y)
        rho[..., row] = torch.where(accepted, 1 / sy, 0.0).squeeze(-1)
        rho = rho.masked_fill(taken.alpha == 0, 0.0)
        gamma = torch.where(accepted, sy / dot(y, y), gamma)
        state = LBFGSState(pairs, rho, gamma, n_pairs + bool(accepted.any()))
        return Step(taken.w, state, loss, g, taken.info, next_g)


def apply_inverse(state: LBFGSState, g: Tensor) -> Tensor:
    """Return H g, (..., P), by the two-loop recursion; g where there is no pair."""
    pairs, rho, gamma, n_pairs = state
    size = rho.shape[-1]
    rows = [i % size for i in range(max(n_pairs - size + 1, 0), n_pairs)]
    q, factors = g.clone(), {}
    for i in reversed(rows):
        s, y = pairs[..., 0, i, :], pairs[..., 1, i, :]
        factors[i] = rho[..., i : i + 1] * dot(s, q)
        q.addcmul_(y, factors[i], value=-1.0)
    q.mul_(torch.where((rho > 0).any(-1, keepdim=True), gamma, 1.0))
    for i in rows:
        s, y = pairs[..., 0, i, :], pairs[..., 1, i, :]
        q.addcmul_(s, factors[i] - rho[..., i : i + 1] * dot(y, q))
    return q

"""The BFGS method."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._curvature import check_matrix
from dlopt.optimizer._line import dot, find_next_gradient, is_positive_pair, limit_first, replace_ascent
from dlopt.parts import LineSearch, ObjectiveOracle, Optimizer, Step
from dlopt.ranges import NonNegative


class BFGSState(NamedTuple):
    h: Tensor  # (..., P, P)
    fresh: Tensor  # (..., 1), 1 before the first update, then 0


@dataclass(frozen=True)
class BFGS(Optimizer):
    """BFGS: quasi-Newton steps by a dense estimate H of the inverse Hessian.

        w <- w + alpha d,   d = -H g,   s = alpha d,   y = g(w + alpha d) - g(w),   rho = 1 / s'y
        H <- (I - rho s y') H (I - rho y s') + rho s s'

    H starts as the identity, and is scaled to s'y / y'y before the first update. alpha comes from the line search,
    which tries 1 first; before the first update min(1, 1 / |g|). With linesearch=exact it ends on a quadratic after P
    steps, at the iterates of conjugate gradients. A step takes O(P^2) arithmetic and memory, and a checkpoint holds H;
    lbfgs needs neither.

    Both gradients of a pair are of one mini-batch: with batch_size=full a step costs its search, else one gradient
    more. A pair is left out unless s'y > curvature |s| |y|; strong_wolfe yields s'y > 0 unless it fails. Where d is no
    direction of descent or not finite, or a search finds no step, H is the identity again.

    curvature    smallest cosine between s and y in a pair
    linesearch   the line search, with its own keys: optimizer.linesearch=armijo

    Source: Broyden, Fletcher, Goldfarb and Shanno 1970; Nocedal and Wright 2006, algorithm 6.1, equations 6.17, 6.20.
    """

    needs_true_gradient = True
    decides_on_host = True

    curvature: NonNegative
    linesearch: LineSearch

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.linesearch.uses_curvature

    def init(self, w: Tensor, layout: Layout) -> BFGSState:
        eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
        return BFGSState(eye.expand(*w.shape[:-1], *eye.shape).clone(), torch.ones_like(w[..., :1]))

    def check(self, w: Tensor, layout: Layout) -> None:
        check_matrix(w, 2, "the inverse Hessian", "optimizer=lbfgs")

    def step(self, w: Tensor, state: BFGSState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        h, fresh = state
        d, lost = replace_ascent(-_multiply(h, g), g)
        _restart(h, fresh, lost)
        taken = self.linesearch.search(w, d, loss, g, objective, limit_first(g, fresh > 0))
        next_g = find_next_gradient(taken, objective)
        _update(h, fresh, taken.alpha * d, next_g - g, self.curvature)
        _restart(h, fresh, taken.alpha == 0)
        return Step(taken.w, state, loss, g, taken.info, next_g)


def _multiply(h: Tensor, x: Tensor) -> Tensor:
    return (h @ x.unsqueeze(-1)).squeeze(-1)


def _restart(h: Tensor, fresh: Tensor, where: Tensor) -> None:
    """Overwrite H by the identity where a column (..., 1) is true."""
    if where.any():
        h.masked_fill_(where.unsqueeze(-1), 0.0)
        h.diagonal(dim1=-2, dim2=-1).masked_fill_(where, 1.0)
        fresh.masked_fill_(where, 1.0)


def _update(h: Tensor, fresh: Tensor, s: Tensor, y: Tensor, curvature: float | Tensor) -> None:
    """Update H in place by a pair, unless it is left out: H <- H - s a' - a s' for one vector a."""
    accepted = is_positive_pair(s, y, curvature)
    if not accepted.all():  # zero vectors change nothing
        s, y = s.masked_fill(~accepted, 0.0), y.masked_fill(~accepted, 0.0)
    sy = torch.where(accepted, dot(s, y), 1.0)
    scales = accepted & (fresh > 0)
    if scales.any():
        h.mul_(torch.where(scales, sy / dot(y, y), 1.0).unsqueeze(-1))
    hy = _multiply(h, y)
    a = (hy - 0.5 * (1 + dot(y, hy) / sy) * s) / sy
    h.addcmul_(s.unsqueeze(-1), a.unsqueeze(-2), value=-1.0).addcmul_(a.unsqueeze(-1), s.unsqueeze(-2), value=-1.0)
    fresh.masked_fill_(accepted, 0.0)

"""Sophia: clipped steps by a moving average of the diagonal of the Hessian."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.diagonal import estimate_diagonal
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, Positive


class SophiaState(NamedTuple):
    m: Tensor  # (..., P), average of g
    h: Tensor  # (..., P), average of the estimates
    t: int  # steps taken, on the host, which has to know when an estimate is due


@dataclass(frozen=True)
class Sophia(Optimizer):
    """Sophia: divides an average of gradients by an average of curvatures, and clips each entry of the step.

        m <- beta1 m + (1 - beta1) g
        h <- beta2 h + (1 - beta2) e,  at the first step and at every update_every-th one, with a new estimate e
        w <- w - lr clip(m / max(gamma h, eps), 1)

    Entries of clip(x, 1) lie between -1 and 1. Where the curvature is small, negative or not known yet, a step has the
    size lr and the sign of m, as Lion's. Elsewhere it is a Newton step with the rate lr / gamma.

        estimator=gauss_newton   e = B g~ * g~,  g~: gradient of the mini-batch of B examples for targets drawn from
                                 the network's own distribution (Gauss-Newton-Bartlett, Sophia-G)
        estimator=hutchinson     e = z * Hz,  z: random signs (Sophia-H)

    Both are unbiased for a diagonal: gauss_newton for that of the Gauss-Newton matrix of the loss, without penalties
    and never negative; it costs a gradient. hutchinson is for that of the Hessian of loss and penalties, and costs 2.6.

    lr             learning rate: largest step of each weight
    beta1          decay of the average of gradients
    beta2          decay of the average of estimates
    gamma          smaller: more entries of the step are clipped. The authors set it so that 50 to 90% are. Rows hold
                   optimizer/clipped, the fraction at the steps with an estimate
    eps            minimum of the divisor
    update_every   steps between two estimates
    estimator      gauss_newton or hutchinson

    Departures: z has random signs, whose estimates vary less than those of the source's normal vectors. Estimates are
    of the step's own mini-batch, those of the authors' code of another one. regularization=weight_decay is the
    decoupled decay of the source. The authors' code for estimator=hutchinson divides lr by 1 - beta1^t.

    Source: Liu, Li, Hall, Liang and Ma 2023, algorithms 1 to 3.
    """

    without_sampling = ("estimator", "hutchinson")

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    gamma: Positive
    eps: Positive
    update_every: Count
    estimator: Literal["gauss_newton", "hutchinson"]

    @property
    def samples_targets(self) -> bool:  # type: ignore[override]
        return self.estimator == "gauss_newton"

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self.estimator == "hutchinson"

    def init(self, w: Tensor, layout: Layout) -> SophiaState:
        return SophiaState(torch.zeros_like(w), torch.zeros_like(w), 0)

    def step(self, w: Tensor, state: SophiaState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, h, t = state
        is_due = t % self.update_every == 0
        if is_due:
            h.lerp_(self._estimate(w, objective), 1 - self.beta2)
        for w_, g_, m_, h_ in cache_chunks(w, g, m, h):
            x = torch.mul(h_, self.gamma).clamp_(min=self.eps)
            axpy_(w_, -self.lr, torch.div(m_.lerp_(g_, 1 - self.beta1), x, out=x).clamp_(-1.0, 1.0))
        info = {"clipped": self._measure_clipping(m, h)} if is_due else {}
        return Step(w, state._replace(t=t + 1), loss, g, info=info)

    def _estimate(self, w: Tensor, objective: ObjectiveOracle) -> Tensor:
        if self.estimator == "gauss_newton":
            return objective.gauss_newton_diagonal(w)
        return estimate_diagonal(lambda z: objective.hvp(w, z), w, 1, objective.random_key("sophia")).value

    def _measure_clipping(self, m: Tensor, h: Tensor) -> Tensor:
        """Return the fraction of clipped entries, (...)."""
        return m.abs().sub_((h * self.gamma).clamp_(min=self.eps)).gt_(0.0).mean(-1)

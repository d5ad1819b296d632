"""Saddle-free Newton."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg import lanczos
from dlopt.linalg.inplace import axpy_
from dlopt.linalg.symmetric import eigh_or_nan
from dlopt.optimizer._curvature import check_dense
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, NonNegative, Positive


@dataclass(frozen=True)
class SaddleFreeNewton(Optimizer):
    """Saddle-free Newton: Newton's method with the absolute values of the curvatures.

        w <- w - lr (|H| + damping I)^-1 g,   |H| = U diag(|lambda_1|, ..., |lambda_P|) U'

    It goes as far as Newton's method in each eigendirection, but always downhill. So it leaves a saddle point as fast
    as the textbook Newton's method (newton with solver=dense damping=0 adapt=none) is drawn to it. Where H is positive
    definite it is Newton's method. Gradient and Hessian are those of one mini-batch.

    solver=lanczos takes H on the Krylov space of g with k directions, K = span(g, Hg, ..., H^(k-1) g), where
    H = Q'TQ with a tridiagonal T:

        w <- w - lr |g| Q' (|T| + damping I)^-1 e_1

    With k = P, or as many different eigenvalues as H has, it is the whole step. The paper adds the former step to the
    space, which is left out here: a step is a function of its own mini-batch.

    lr         factor of the step
    damping    added to each absolute curvature: flat directions would have unlimited steps
    solver     dense: the whole Hessian, P products and O(P^3) arithmetic. lanczos: `rank` products
    rank       k, the number of directions; P if that is smaller

    Source: Dauphin et al. 2014, Identifying and attacking the saddle point problem, algorithm 1 and section 5.
    """

    needs_true_gradient = True
    uses_curvature = True
    decides_on_host = True

    lr: Positive
    damping: NonNegative
    solver: Literal["dense", "lanczos"]
    rank: Count

    def check(self, w: Tensor, layout: Layout) -> None:
        if self.solver == "dense":
            check_dense(w, "optimizer.solver=lanczos")

    def step(self, w: Tensor, state: tuple[()], objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        if self.solver == "dense":
            values, vectors = eigh_or_nan(objective.hessian(w))
            along = (vectors.mT @ g.unsqueeze(-1)).squeeze(-1) / (values.abs() + self.damping)
            p = (vectors @ along.unsqueeze(-1)).squeeze(-1)
        else:
            p = self._solve_in_subspace(w, g, objective)
        return Step(axpy_(w, -self.lr, p), state, loss, g)

    def _solve_in_subspace(self, w: Tensor, g: Tensor, objective: ObjectiveOracle) -> Tensor:
        """Return |g| Q' (|T| + damping I)^-1 e_1, (..., P)."""
        norm = g.norm(dim=-1, keepdim=True)
        start = torch.where(norm == 0, 1.0, g)  # zero has no direction; its step is zero for any
        krylov = lanczos.tridiagonalize(lambda v: objective.hvp(w, v), start, self.rank)
        values, vectors = eigh_or_nan(krylov.matrix())
        along = norm * vectors[..., 0, :] / (values.abs() + self.damping)
        return (along.unsqueeze(-2) @ vectors.mT @ krylov.basis).squeeze(-2)

"""Newton's method."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._curvature import check_dense
from dlopt.optimizer._levenberg_marquardt import DampedModelOptimizer
from dlopt.parts import ObjectiveOracle


@dataclass(frozen=True)
class Newton(DampedModelOptimizer):
    """Newton's method: a step to the minimum of the damped quadratic model of the objective.

        w <- w + lr p,   (H + damping I) p = -g

    The defaults are safeguarded and do not stop at a saddle point; solver=dense damping=0 adapt=none is the textbook
    method.

    With lr = 1 and damping = 0 it reaches the minimum of a quadratic in one step, for any condition number. Without a
    minimum, H + damping I has negative eigenvalues and the step leads to a saddle point or a maximum: along an
    eigenvector of a negative eigenvalue it goes uphill. A damping above the absolute value of the most negative
    eigenvalue prevents that; it also shortens steps where the gradient is small, so saddle_free_newton is the better
    cure. Gradient and Hessian are those of one mini-batch.

    The Hessian of a ReLU network is that of its linear pieces, which a notice says. Dropout keeps one mask through the
    step. bfloat16 is refused.

    lr          factor of the step; 1 is Newton's
    damping     added to the curvature of every direction
    solver      dense: the whole Hessian, P products and O(P^3) arithmetic. cg: conjugate gradients on products with H,
                which end at a direction of negative curvature with the step so far; at the first, p = -g
    tolerance   cg ends when |(H + damping I) p + g| <= tolerance |g|
    max_iter    largest number of products of cg in a step
    adapt       none, or levenberg_marquardt: compares the fall of the objective with that of the model,
                    rho = (f(w) - f(w + lr p)) / -(lr g'p + lr^2 p'Hp / 2),
                and divides damping by `factor` if rho > 3/4, multiplies it if rho < 1/4, from 1e-10 to 1e10 of the
                configured one. A step to a larger or no finite value is not taken, but for rounding. It costs one
                evaluation more, and one product
    factor      of levenberg_marquardt

    Rows hold optimizer/damping, the mean of what was added.

    Source: Nocedal and Wright 2006, equation 2.15 and algorithm 7.1; Martens 2010, section 4.1, for the thresholds.
    """

    uses_curvature = True

    solver: Literal["dense", "cg"]

    def check(self, w: Tensor, layout: Layout) -> None:
        if self.solver == "dense":
            check_dense(w, "optimizer.solver=cg")

    def multiply(self, objective: ObjectiveOracle, w: Tensor, v: Tensor) -> Tensor:
        return objective.hvp(w, v)

    def solve(self, objective: ObjectiveOracle, w: Tensor, g: Tensor, damping: Tensor) -> Tensor:
        if self.solver == "cg":
            return super().solve(objective, w, g, damping)
        h = objective.hessian(w).clone()
        h.diagonal(dim1=-2, dim2=-1).add_(damping)
        return torch.linalg.solve_ex(h, -g.unsqueeze(-1))[0].squeeze(-1)

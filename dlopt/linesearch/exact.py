"""The step to the minimum of the quadratic model along the direction."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.linesearch import choose_best
from dlopt.parts import LinePoint, LineSearch, LineStep, ObjectiveOracle, StepSize, Trials
from dlopt.ranges import Count, Positive

SHRINK = 0.25
"""Factor of alpha after a trial that is not acceptable."""


@dataclass(frozen=True)
class Exact(LineSearch):
    """The minimum of the quadratic model along d, from one Hessian-vector product.

        alpha = -g'd / d'Hd

    Along d = -g it is the optimal step of steepest descent, g'g / g'Hg. On a quadratic it is the exact minimum of the
    line. If the curvature d'Hd is not positive, the model has no minimum, and the step has the length
    |alpha d| = max_step. The step is shortened to a quarter while it leads to a larger value or to none.

    max_step          length of the step where the curvature along d is not positive, in the units of w
    max_evaluations   largest number of gradients besides the product; after them the search has failed, without a step

    Source: Nocedal and Wright 2006, equation 3.55.
    """

    uses_curvature = True

    max_step: Positive
    max_evaluations: Count

    def search(
        self,
        w: Tensor,
        d: Tensor,
        loss: Tensor,
        g: Tensor,
        objective: ObjectiveOracle,
        first: Tensor,
        c2: float = 0.9,
    ) -> LineStep:
        slope, curvature = (torch.linalg.vecdot(x, d).unsqueeze(-1) for x in (g, objective.hvp(w, d)))
        longest = self.max_step / torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        alpha = torch.where(curvature > 0, -slope / curvature, longest)
        step = super().search(w, d, loss, g, objective, alpha, c2)
        return step._replace(evaluations=step.evaluations + 1)

    def trials(self, start: LinePoint, first: float, c2: float) -> Trials:
        alpha = first
        for _ in range(self.max_evaluations):
            trial = yield alpha
            if trial.is_finite and trial.value <= start.value:
                return StepSize(alpha)
            alpha *= SHRINK
        return choose_best([start])

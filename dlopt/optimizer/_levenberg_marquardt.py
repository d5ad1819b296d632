"""Damped steps to the minimum of a quadratic model, which Newton's method and Gauss-Newton share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg import conjugate_gradients
from dlopt.linalg.inplace import axpy_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, NonNegative, Positive, Range

ROUNDING = 10.0
"""Changes of the objective up to this multiple of its rounding error are not known."""
SCALES = (1e-10, 1e10)
"""Bounds of the factor of the damping: it can come back from either, which it could not from zero or infinity."""


class DampingState(NamedTuple):
    scale: Tensor  # (..., 1), factor of the damping


@dataclass(frozen=True)
class DampedModelOptimizer(Optimizer):
    """Steps w <- w + lr p,  (B + damping I) p = -g,  for a curvature matrix B.

    With adapt=levenberg_marquardt, the damping follows how well the model g'p + p'Bp / 2 predicts the objective. Then
    a step costs one evaluation more, and one product. Rows hold optimizer/damping.
    """

    needs_true_gradient = True
    decides_on_host = True

    lr: Positive
    damping: NonNegative
    tolerance: Annotated[float, Range(gt=0, lt=1)]
    max_iter: Count
    adapt: Literal["none", "levenberg_marquardt"]
    factor: Annotated[float, Range(gt=1)]

    @property
    def scales_with_lr(self) -> bool:  # type: ignore[override]
        """Return False if the damping and the step depend on the objective at its end."""
        return self.adapt == "none"

    def init(self, w: Tensor, layout: Layout) -> DampingState:
        return DampingState(torch.ones_like(w[..., :1]))

    def multiply(self, objective: ObjectiveOracle, w: Tensor, v: Tensor) -> Tensor:
        """Return B(w) v, (..., P)."""
        raise NotImplementedError

    def solve(self, objective: ObjectiveOracle, w: Tensor, g: Tensor, damping: Tensor) -> Tensor:
        """Return p, (..., P), by conjugate gradients."""
        product = lambda v: torch.addcmul(self.multiply(objective, w, v), v, damping)  # noqa: E731
        return conjugate_gradients.solve(product, -g, tolerance=self.tolerance, max_iterations=self.max_iter).x

    def step(self, w: Tensor, state: DampingState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        damping = self.damping * state.scale
        info = {"damping": damping.squeeze(-1)}
        p = self.solve(objective, w, g, damping)
        if self.adapt == "none":
            return Step(axpy_(w, self.lr, p), state, loss, g, info)
        step = self.lr * p
        model = -(g * step).sum(-1) - 0.5 * (step * self.multiply(objective, w, step)).sum(-1)
        candidate = w + step
        fall = loss - objective.value(candidate)
        # Below rounding neither fall is known: at a minimum, refused steps would raise the damping without end.
        rounding = ROUNDING * torch.finfo(loss.dtype).eps * loss.abs()
        is_unknown = ((model.abs() <= rounding) & (fall.abs() <= rounding)).unsqueeze(-1)
        rho = (fall / model).unsqueeze(-1)
        falls = (fall > 0).unsqueeze(-1) | is_unknown  # NaN does not
        scale = torch.where(rho > 0.75, state.scale / self.factor, state.scale)
        scale = torch.where((rho >= 0.25) & falls, scale, state.scale * self.factor)
        scale = torch.where(is_unknown, state.scale, scale).clamp(*SCALES)
        return Step(torch.where(falls, candidate, w), DampingState(scale), loss, g, info)

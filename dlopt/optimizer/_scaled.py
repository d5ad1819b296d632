"""Steps of an optimizer with a learning rate of its own for each group of parameters."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._wrapped import WrappedOptimizer
from dlopt.parts import ObjectiveOracle, Step


@dataclass(frozen=True)
class ScaledSteps(WrappedOptimizer):
    """Scale the step of base_optimizer from w to v in each weight by the learning rate of its parameter group.

        w <- w + f (v - w)  with  f of layout.lr_factors

    If v - w is lr times a vector that does not depend on lr, these are the steps with the learning rates f lr.
    """

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        factors = objective.layout.lr_factors(w)
        assert factors is not None
        before = w.clone()
        result = self.base_optimizer.step(w, state, objective)
        return result._replace(w=torch.lerp(before, result.w, factors, out=result.w), next_gradient=None)

    def lr_factors(self, w: Tensor, layout: Layout) -> Tensor | None:
        own, inner = layout.lr_factors(w), self.base_optimizer.lr_factors(w, layout)
        return own if inner is None or own is None else own * inner

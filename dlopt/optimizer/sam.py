"""Sharpness-aware minimization."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.optimizer._perturbed import PerturbedObjective
from dlopt.optimizer._wrapped import WrappedOptimizer
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Positive


@dataclass(frozen=True)
class SAM(WrappedOptimizer):
    """Sharpness-aware minimization: steps by the gradient at the worst nearby point.

        e = rho g(w) / |g(w)|,  then a step of base_optimizer from w by the gradient g(w + e)

    It minimizes the largest loss within rho of w, to first order in e, and so prefers flat minima. The norm is over all
    weights together; e is zero if the gradient is zero. Both gradients are of one mini-batch, penalties included, so a
    step costs two gradients. Reported loss, gradient and batch statistics are those at w. Schedules and weight decay
    use the learning rate of base_optimizer.

    rho              radius of the neighbourhood, in the units of w
    base_optimizer   the inner optimizer, with its own keys: optimizer.base_optimizer=adam

    Source: Foret, Kleiner, Mobahi and Neyshabur 2021, equations 2 (p = 2) and 3, algorithm 1.
    """

    rho: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        norm = g.norm(dim=-1, keepdim=True)
        uphill = PerturbedObjective(objective, g, torch.where(norm > 0, self.rho / norm, 0.0))
        return self.base_optimizer.step(w, state, uphill)._replace(loss=loss, gradient=g, next_gradient=None)

"""Adaptive sharpness-aware minimization."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.linalg.inplace import cache_chunks
from dlopt.optimizer._perturbed import PerturbedObjective
from dlopt.optimizer._wrapped import WrappedOptimizer
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative, Positive


@dataclass(frozen=True)
class ASAM(WrappedOptimizer):
    """Adaptive sharpness-aware minimization: SAM with a neighbourhood in proportion to the size of each weight.

        T = |w| + eta for weights, 1 for biases and normalization parameters
        e = rho T^2 g(w) / |T g(w)|,  then a step of base_optimizer from w by the gradient g(w + e)

    It minimizes, to first order in e, the largest loss within |e / T| <= rho. Scaling one layer up and the next one
    down, which leaves the function of a ReLU network unchanged, does not change this neighbourhood if eta = 0. The norm
    is over all weights together; e is zero if T g is zero. A step costs two gradients of one mini-batch, penalties
    included. Reported loss, gradient and batch statistics are those at w. Schedules and weight decay use the learning
    rate of base_optimizer.

    T is that of element-wise normalization; the source also has one for each filter. In the authors' code, T = 1 for
    parameters without "weight" in their names. So it is |w| + eta for the gains of normalizations there, and 1 here.

    rho              radius of the neighbourhood, in units of |w|; 0.5 (CIFAR-10) and 1 (CIFAR-100) in the source
    eta              lower limit of T, in the units of w, so that a weight of zero is perturbed, too
    base_optimizer   the inner optimizer, with its own keys: optimizer.base_optimizer=adam

    Source: Kwon, Kim, Park and Choi 2021, algorithm 1; defaults of the authors' code.
    """

    rho: Positive
    eta: NonNegative

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        direction = torch.empty_like(w)
        norms, one = [], w.new_ones(())
        for d_, w_, g_, is_weight in cache_chunks(direction, w, g, objective.layout.kind_mask(w)):
            t = torch.lerp(one, w_.abs().add_(self.eta), is_weight)
            norms.append(torch.linalg.vector_norm(torch.mul(t, g_, out=d_), dim=-1, keepdim=True))
            d_.mul_(t)
        norm = torch.cat(norms, -1).norm(dim=-1, keepdim=True)
        uphill = PerturbedObjective(objective, direction, torch.where(norm > 0, self.rho / norm, 0.0))
        return self.base_optimizer.step(w, state, uphill)._replace(loss=loss, gradient=g, next_gradient=None)

"""The objective at a perturbed point, for optimizers that minimize the worst loss nearby."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dlopt.parts import ObjectiveOracle
from dlopt.prng import Key


class PerturbedObjective:
    """Shift an objective: f(w + e) as a function of w, where e = scale d for a vector d and a column of scales."""

    def __init__(self, objective: ObjectiveOracle, direction: Tensor, scale: Tensor) -> None:
        self.objective = objective
        self.direction = direction
        self.scale = scale
        self.layout = objective.layout
        self.bounds: Mapping[str, tuple[float, float]] = objective.bounds

    def perturb(self, w: Tensor) -> Tensor:
        return torch.addcmul(w, self.direction, self.scale)

    def value(self, w: Tensor) -> Tensor:
        return self.objective.value(self.perturb(w))

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.objective.gradient(self.perturb(w))

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        return self.objective.hvp(self.perturb(w), v)

    def gauss_newton_product(self, w: Tensor, v: Tensor) -> Tensor:
        return self.objective.gauss_newton_product(self.perturb(w), v)

    def hessian(self, w: Tensor) -> Tensor:
        return self.objective.hessian(self.perturb(w))

    def kronecker_factors(self, w: Tensor, *, sampled: bool) -> list[tuple[Tensor, Tensor]]:
        return self.objective.kronecker_factors(self.perturb(w), sampled=sampled)

    def gauss_newton_diagonal(self, w: Tensor) -> Tensor:
        return self.objective.gauss_newton_diagonal(self.perturb(w))

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        return self.objective.activations(self.perturb(w))

    def random_key(self, name: str) -> Key:
        return self.objective.random_key(name)

"""What optimizers with a line search share: descent directions, first step lengths, and secant pairs."""

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import LineStep, ObjectiveOracle


class Direction(NamedTuple):
    """A direction of descent, (..., P), and whether it replaces one that was not, (..., 1)."""

    d: Tensor
    replaced: Tensor


def replace_ascent(d: Tensor, g: Tensor) -> Direction:
    """Return d, or -g where d is not a direction of descent or not finite. It reads one number from the device."""
    slope = dot(d, g)
    replaced = ~((slope < 0) & slope.isfinite())
    return Direction(torch.where(replaced, -g, d) if replaced.any() else d, replaced)


def limit_first(g: Tensor, unscaled: Tensor) -> Tensor:
    """Return first step lengths, (..., 1): 1, but min(1, 1 / |g|) along directions -g of no known length."""
    return torch.where(unscaled, (1 / g.norm(dim=-1, keepdim=True)).clamp(max=1.0), 1.0)


def repeat_fall(fall: Tensor, slope: Tensor) -> Tensor:
    """Return first step lengths, (..., 1): of the parabola with this slope at 0 that falls as f did in the step before.

    If f did not fall: min(1, 1 / |phi'(0)|^(1/2)), along -g a step of length one at most.

    Source: Nocedal and Wright 2006, equation 3.60.
    """
    return torch.where(fall > 0, -2.02 * fall / slope, slope.neg().rsqrt().clamp(max=1.0))


def measure_fall(loss: Tensor, step: LineStep) -> Tensor:
    """Return by how much f fell in a step, (..., 1); 0 if the search has not evaluated it."""
    return torch.zeros_like(step.alpha) if step.value is None else (loss - step.value).unsqueeze(-1)


def find_next_gradient(step: LineStep, objective: ObjectiveOracle) -> Tensor:
    """Return the gradient at the end of a step, on the batch of its start: evaluated if the search has not done it."""
    return objective.gradient(step.w)[1] if step.gradient is None else step.gradient


def is_positive_pair(s: Tensor, y: Tensor, curvature: float | Tensor) -> Tensor:
    """Return whether s'y > curvature |s| |y|, (..., 1); a pair that is not finite is not positive."""
    norms = s.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)
    return (dot(s, y) > curvature * norms) & norms.isfinite()


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return inner products, (..., 1)."""
    return torch.linalg.vecdot(x, y).unsqueeze(-1)

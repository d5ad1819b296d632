"""Gradient descent with a diagonal preconditioner."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.diagonal import estimate_diagonal
from dlopt.linalg.inplace import addcdiv_scaled_, axpy_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, NonNegative, Positive


class PreconditionedState(NamedTuple):
    d: Tensor  # (..., P), the absolute estimate of the diagonal of H; (..., 0) for a fixed preconditioner
    t: int  # steps taken, on the host, which has to know when an estimate is due


@dataclass(frozen=True)
class Preconditioned(Optimizer):
    """Preconditioned gradient descent with a diagonal matrix P.

        w <- w - lr P^-1 g

    Gradient descent is slow if the curvature differs from direction to direction: lr is limited by the largest, and the
    direction of the smallest needs about (largest / smallest) steps. With P near the Hessian, curvatures of P^-1 H are
    near 1. A diagonal P corrects differences between coordinates, not a rotation of the axes.

    The estimate P = |diag H| + damping is the mean of v * Hv over `probes` vectors v of random signs, for H of the
    mini-batch. It is taken at the first step and at every update_every-th one.

    The absolute value keeps a step downhill where the curvature is negative. damping limits it where the curvature
    vanishes; it does not change numbers that are given. For a quadratic with a diagonal H and damping = 0 one step is
    Newton's, so it ends at the minimum.

    lr             learning rate
    curvature      hutchinson: the estimate. A list of numbers, one for each coordinate: the diagonal of P, as in
                   optimizer.curvature=[100,1]. Names with numbers: P is the number for parameters whose name matches,
                   and 1 for others, as in 'optimizer.curvature={hidden.*: 10, *.bias: 1}'; the last match wins
    damping        of hutchinson: added to each absolute curvature
    update_every   of hutchinson: steps between two estimates
    probes         of hutchinson: Hessian products of an estimate

    Raises ValueError before a run if a list does not have as many numbers as the network has weights and biases, or if
    a pattern matches no parameter.

    Source: Goodfellow, Bengio and Courville 2016, section 8.2.1; Bekas, Kokiopoulou and Saad 2007; the absolute value:
    Dauphin, de Vries and Bengio 2015, Equilibrated adaptive learning rates for non-convex optimization.
    """

    lr: Positive
    curvature: Literal["hutchinson"] | list[Positive] | dict[str, Positive]
    damping: NonNegative
    update_every: Count
    probes: Count

    @property
    def needs_true_gradient(self) -> bool:  # type: ignore[override]
        return self._estimates

    @property
    def uses_curvature(self) -> bool:  # type: ignore[override]
        return self._estimates

    def init(self, w: Tensor, layout: Layout) -> PreconditionedState:
        return PreconditionedState(torch.zeros_like(w) if self._estimates else w.new_zeros(*w.shape[:-1], 0), 0)

    def check(self, w: Tensor, layout: Layout) -> None:
        fixed = self._constant_curvature
        if isinstance(fixed, dict):
            names = [p.name for p in layout]
            for pattern in fixed:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise ValueError(f"no parameter matches curvature.{pattern}; they are {', '.join(names)}")
        elif fixed is not None and len(fixed) != layout.size:
            raise ValueError(f"curvature must have {layout.size} numbers, one for each weight, got {len(fixed)}")

    def step(self, w: Tensor, state: PreconditionedState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        if self._estimates:
            if state.t % self.update_every == 0:
                key = objective.random_key("preconditioned")
                state.d.copy_(estimate_diagonal(lambda v: objective.hvp(w, v), w, self.probes, key).value.abs())
            addcdiv_scaled_(w, -self.lr, g, state.d + self.damping)
        else:
            for part, curvature in self._list_constant_curvatures(objective.layout, w):
                axpy_(w[..., part], -self.lr, g[..., part] / curvature)
        return Step(w, state._replace(t=state.t + 1), loss, g)

    @property
    def _estimates(self) -> bool:
        return self._constant_curvature is None

    @property
    def _constant_curvature(self) -> list[float] | dict[str, float] | None:
        return None if isinstance(self.curvature, str) else self.curvature

    def _list_constant_curvatures(self, layout: Layout, w: Tensor) -> Iterator[tuple[slice, Any]]:
        """Yield slices of w with their curvatures."""
        fixed = self._constant_curvature
        if not isinstance(fixed, dict):
            yield slice(None), torch.tensor(fixed, dtype=w.dtype, device=w.device)
            return
        for p in layout:
            matching = [number for pattern, number in fixed.items() if fnmatchcase(p.name, pattern)]
            yield p.slice, (matching or [1.0])[-1]

"""Line searches: how far an optimizer goes along a direction."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from dlopt.base import dotted_fields
from dlopt.base.group import Group
from dlopt.base.optimizer import ObjectiveOracle


class LinePoint(NamedTuple):
    """A point of a line: alpha, phi(alpha) = f(w + alpha d), and phi'(alpha), or 0 if the search does not use it."""

    alpha: float
    value: float
    slope: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.slope)


class StepSize(NamedTuple):
    """The end of a search: the step length, and whether the search found no acceptable one."""

    alpha: float
    failed: bool = False


class LineStep(NamedTuple):
    """The step of a line search: alpha (..., 1), and w + alpha d with its value and gradient; None if not evaluated.

    evaluations   (...), of objective and Hessian products
    failed        (...), whether the search found no acceptable step; the best one so far was taken, or none
    """

    alpha: Tensor
    w: Tensor
    value: Tensor | None
    gradient: Tensor | None
    evaluations: Tensor
    failed: Tensor

    @property
    def info(self) -> dict[str, Tensor]:
        """Return what a step of an optimizer reports of its search: see `LineSearch`."""
        return {
            "step_size": self.alpha.squeeze(-1),
            "search_evaluations": self.evaluations,
            "search_failed": self.failed,
        }


Trials = Generator[float, LinePoint, StepSize]
"""A search of one run: it yields the alpha to evaluate, receives the trial there, and returns its choice."""


@Group("linesearch", must_subclass=True, nested=True)
class LineSearch:
    """A line search: a frozen dataclass of hyperparameters. An optimizer holds it: optimizer.linesearch=armijo.

    Override `trials`, for one run and in host numbers, as textbooks write a search. `search` then advances the searches
    of all lanes together: each round is one evaluation of all lanes and one transfer to the host, and a lane that is
    done repeats its choice. A search that needs no trials overrides `search`.

    An infinite or undefined value or slope is a trial too far. A search that evaluates
    trials never takes a step to a larger value.

    Rows hold means over the steps: optimizer/step_size, alpha; optimizer/search_evaluations, evaluations of a search;
    and optimizer/search_failed, the fraction of searches that found no acceptable step.

    uses_slopes       whether trials have slopes, so that each costs a gradient; else a value
    uses_curvature    whether a search uses second derivatives
    decides_on_host   whether a search reads numbers from the device
    """

    uses_slopes: ClassVar[bool] = True
    uses_curvature: ClassVar[bool] = False
    decides_on_host: ClassVar[bool] = True

    def trials(self, start: LinePoint, first: float, c2: float) -> Trials:
        """Search along a direction with a negative slope at start, beginning at alpha = first."""
        raise NotImplementedError

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
        """Take a step from w along d, both (..., P), and return it. w is overwritten; d, loss and g are those at w.

        first   (..., 1), the first step length to try
        c2      of the curvature condition, if the search leaves it to the optimizer: 0.9 if d is as long as a step of
                Newton's method, 0.1 if not
        """
        origin = w.clone()
        slopes = torch.linalg.vecdot(g, d)
        d = d.masked_fill(~slopes.isfinite().unsqueeze(-1), 0.0) if not slopes.isfinite().all() else d
        numbers = torch.stack([loss, slopes, first.squeeze(-1)], -1).reshape(-1, 3).tolist()
        rows = self._list_rows(len(numbers))
        lanes = [_Lane(row, LinePoint(0.0, f, slope), a, c2) for row, (f, slope, a) in zip(rows, numbers, strict=True)]
        at, value, gradient = [0.0] * len(lanes), loss, None
        while any(lane.choice is None for lane in lanes) or [lane.alpha for lane in lanes] != at:
            at = [lane.alpha for lane in lanes]
            torch.addcmul(origin, d, _to_column(at, w), out=w)
            if self.uses_slopes:
                value, gradient = objective.gradient(w)
                slope = torch.linalg.vecdot(gradient, d)
            else:
                value = objective.value(w)
                slope = torch.zeros_like(value)
            results = torch.stack([value, slope], -1).reshape(-1, 2).tolist()
            for lane, (phi, derivative) in zip(lanes, results, strict=True):
                lane.receive(phi, derivative)
        return LineStep(
            _to_column(at, w),
            w,
            value,
            gradient,
            _to_column([lane.evaluations for lane in lanes], w).squeeze(-1),
            _to_column([lane.has_failed for lane in lanes], w).squeeze(-1),
        )

    def _list_rows(self, count: int) -> list[LineSearch]:
        """Return the search of each lane, with host numbers in place of columns."""
        columns = {
            name: value.flatten().tolist()
            for name in dotted_fields.list_fields(self)
            if isinstance(value := getattr(self, name), Tensor)
        }
        if not columns:
            return [self] * count
        return [dotted_fields.replace_fields(self, {n: c[i] for n, c in columns.items()}) for i in range(count)]


class _Lane:
    """The search of one lane: the alpha to evaluate next, or its choice."""

    def __init__(self, search: LineSearch, start: LinePoint, first: float, c2: float) -> None:
        self.alpha = 0.0
        self.evaluations = 0
        self.choice: StepSize | None = None
        if start.slope < 0 and start.is_finite and 0 < first < math.inf:
            self._trials = search.trials(start, first, c2)
            self._advance(None)
        else:
            self.choice = StepSize(0.0, failed=start.slope != 0)  # at a stationary point there is nothing to find

    @property
    def has_failed(self) -> bool:
        return self.choice is not None and self.choice.failed

    def receive(self, value: float, slope: float) -> None:
        """Continue with the trial at alpha, unless this lane is done."""
        if self.choice is None:
            self.evaluations += 1
            self._advance(LinePoint(self.alpha, value, slope))

    def _advance(self, trial: LinePoint | None) -> None:
        try:
            self.alpha = next(self._trials) if trial is None else self._trials.send(trial)
        except StopIteration as end:
            self.choice = end.value
            self.alpha = end.value.alpha
            self.evaluations += trial is not None and self.alpha != trial.alpha  # evaluated once more


def choose_best(trials: Iterable[LinePoint]) -> StepSize:
    """Return the failure of a search that takes the trial with the smallest value, and the flattest slope among equals.

    The start is one of the trials, so the value does not rise.
    """
    best = min((t for t in trials if t.is_finite), key=lambda t: (t.value, abs(t.slope)))
    return StepSize(best.alpha, failed=True)


def interpolate_quadratic(a: LinePoint, b: LinePoint) -> float:
    """Return the minimizer of the parabola with the value and slope of a and the value of b; NaN if it has none.

    Source: Nocedal and Wright 2006, equation 3.58.
    """
    width = b.alpha - a.alpha
    curvature = 2 * (b.value - a.value - a.slope * width)
    return a.alpha - a.slope * width * (width / curvature) if curvature > 0 else math.nan


def interpolate_cubic(a: LinePoint, b: LinePoint) -> float:
    """Return the local minimizer of the cubic with the values and slopes of a and b; NaN if it has none.

    Source: Nocedal and Wright 2006, equation 3.59.
    """
    width = b.alpha - a.alpha
    if width == 0:
        return math.nan
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return math.nan
    d2 = math.copysign(math.sqrt(square), width)
    divisor = b.slope - a.slope + 2 * d2
    return b.alpha - width * ((b.slope + d2 - d1) / divisor) if divisor else math.nan


def clamp(x: float, low: float, high: float, otherwise: float) -> float:
    """Return x within [low, high], or another number if x is NaN."""
    return otherwise if math.isnan(x) else min(max(x, low), high)


def _to_column(numbers: Iterable[float], like: Tensor) -> Tensor:
    """Return a number for each lane as (..., 1)."""
    return torch.tensor(list(numbers), dtype=like.dtype, device=like.device).reshape(*like.shape[:-1], 1)

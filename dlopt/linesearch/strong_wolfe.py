"""A line search for the strong Wolfe conditions."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.base.linesearch import choose_best, clamp, interpolate_cubic
from dlopt.parts import LinePoint, LineSearch, StepSize, Trials
from dlopt.ranges import Count, Range

GROWTH = (1.1, 4.0)
"""Smallest and largest extrapolation, as multiples of the last increase of alpha: the bounds of More and Thuente."""
MARGIN = 0.1
"""Fraction of an interval that a trial keeps from its ends."""


@dataclass(frozen=True)
class StrongWolfe(LineSearch):
    """A step that satisfies the strong Wolfe conditions, by bracketing and cubic interpolation.

        phi(alpha) <= phi(0) + c1 alpha phi'(0)    and    |phi'(alpha)| <= c2 |phi'(0)|,    phi(alpha) = f(w + alpha d)

    The step lowers f enough, and ends where the slope is flatter. Then s'y > 0 for a secant pair, so the matrices of
    bfgs and lbfgs stay positive definite.

    Trials grow until an interval contains such steps, at most by 4 times the last increase. Then the interval shrinks
    to the minimizer of the cubic with the values and slopes of its ends, which keeps 0.1 of the width from each end;
    the interval is halved if it has not shrunk to 0.66 of its width in two trials. A value or slope that is infinite
    or undefined is above any other, and the interval then shrinks to a tenth. If no trial is acceptable, the search has
    failed: it takes the trial with the smallest value, which may be no step.

    c1                decrease that is sufficient, as a fraction of the slope at the start
    c2                curvature condition, at least c1; null: 0.9 for quasi-Newton methods, else 0.1, at least c1
    max_evaluations   largest number of gradients of a search

    Raises ValueError if c1 > c2: then there may be no step that satisfies both conditions.

    Source: Nocedal and Wright 2006, algorithms 3.5 and 3.6; More and Thuente 1994 for the bounds.
    """

    c1: Annotated[float, Range(gt=0, lt=1)]
    c2: Annotated[float, Range(gt=0, lt=1)] | None
    max_evaluations: Count

    def __post_init__(self) -> None:
        if isinstance(self.c1, float) and isinstance(self.c2, float) and self.c1 > self.c2:  # not columns of lanes
            raise ValueError(f"c1 must not be above c2, got c1 = {self.c1:g} and c2 = {self.c2:g}")

    def trials(self, start: LinePoint, first: float, c2: float) -> Trials:
        limit = -(max(c2, self.c1) if self.c2 is None else self.c2) * start.slope
        seen, previous, alpha = [start], start, first
        while len(seen) <= self.max_evaluations:
            trial = yield alpha
            seen.append(trial)
            if self._is_too_far(trial, start) or (trial.value >= previous.value and previous is not start):
                return (yield from self._zoom(previous, trial, limit, seen))
            if abs(trial.slope) <= limit:
                return StepSize(alpha)
            if trial.slope >= 0:
                return (yield from self._zoom(trial, previous, limit, seen))
            low, high = (alpha + growth * (alpha - previous.alpha) for growth in GROWTH)
            previous, alpha = trial, clamp(_extrapolate(previous, trial), low, high, high)
        return choose_best(seen)

    def _zoom(self, low: LinePoint, high: LinePoint, limit: float, seen: list[LinePoint]) -> Trials:
        """Shrink an interval with acceptable steps: low has the smallest value so far, and its slope leads to high."""
        start, widths = seen[0], [abs(high.alpha - low.alpha)]
        while len(seen) <= self.max_evaluations:
            alpha = _choose_inside(low, high, widths)
            if alpha in (low.alpha, high.alpha):
                break  # the interval is as short as rounding permits
            trial = yield alpha
            seen.append(trial)
            rises = (trial.value, abs(trial.slope)) >= (low.value, abs(low.slope))  # values may be equal by rounding
            if self._is_too_far(trial, start) or rises:
                high = trial
            elif abs(trial.slope) <= limit:
                return StepSize(alpha)
            else:
                if trial.slope * (high.alpha - low.alpha) >= 0:
                    high = low
                low = trial
            widths.append(abs(high.alpha - low.alpha))
        return choose_best(seen)

    def _is_too_far(self, trial: LinePoint, start: LinePoint) -> bool:
        return not (trial.is_finite and trial.value <= start.value + self.c1 * trial.alpha * start.slope)


def _extrapolate(a: LinePoint, b: LinePoint) -> float:
    """Return the minimizer of the cubic beyond b, or NaN."""
    alpha = interpolate_cubic(a, b)
    return alpha if alpha > b.alpha else float("nan")


def _choose_inside(low: LinePoint, high: LinePoint, widths: list[float]) -> float:
    """Return the next trial between the ends of an interval; widths are those so far."""
    width = high.alpha - low.alpha
    if not high.is_finite:
        return low.alpha + MARGIN * width
    if len(widths) > 2 and widths[-1] > 0.66 * widths[-3]:
        return low.alpha + width / 2
    left, right = sorted((low.alpha + MARGIN * width, high.alpha - MARGIN * width))
    return clamp(interpolate_cubic(low, high), left, right, low.alpha + width / 2)

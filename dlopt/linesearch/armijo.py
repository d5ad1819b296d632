"""Backtracking to a sufficient decrease."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.base.linesearch import choose_best, clamp, interpolate_quadratic
from dlopt.parts import LinePoint, LineSearch, StepSize, Trials
from dlopt.ranges import Count, Range

SHRINK = (0.1, 0.5)
"""Smallest and largest factor of alpha between two trials."""


@dataclass(frozen=True)
class Armijo(LineSearch):
    """Backtracking to a step that decreases f sufficiently, the condition of Armijo.

        phi(alpha) <= phi(0) + c1 alpha phi'(0),    phi(alpha) = f(w + alpha d)

    It starts at the optimizer's own step length and only shortens it. The second trial is at the minimizer of the
    parabola with phi(0), phi'(0) and the value of the first, later ones are at that of the cubic with the values of the
    last two; both between 0.1 and 0.5 of the last alpha. After a value that is infinite or undefined, alpha shrinks to
    a tenth. Trials cost values only. Secant pairs may have s'y <= 0, which bfgs and lbfgs leave out.

    c1                decrease that is sufficient, as a fraction of the slope at the start
    max_evaluations   largest number of trials; the search has then failed and takes the smallest value, or no step

    Source: Armijo 1966; Nocedal and Wright 2006, section 3.5, equations 3.57 and 3.58; Dennis and Schnabel 1996,
    algorithm A6.3.1, for the bounds.
    """

    uses_slopes = False

    c1: Annotated[float, Range(gt=0, lt=1)]
    max_evaluations: Count

    def trials(self, start: LinePoint, first: float, c2: float) -> Trials:
        seen, alpha = [start], first
        for _ in range(self.max_evaluations):
            trial = yield alpha
            if trial.value <= start.value + self.c1 * alpha * start.slope and trial.is_finite:
                return StepSize(alpha)
            seen.append(trial)
            shortest, longest = (factor * alpha for factor in SHRINK)
            alpha = clamp(_interpolate(seen), shortest, longest, longest) if trial.is_finite else shortest
        return choose_best(seen)


def _interpolate(seen: list[LinePoint]) -> float:
    """Return the minimizer of the parabola or cubic by the start and the last trials, or NaN."""
    start, *trials = seen
    last = [trial for trial in trials if trial.is_finite][-2:]
    if len(last) == 1:
        return interpolate_quadratic(start, last[0])
    (a0, v0, _), (a1, v1, _) = last
    r0, r1 = (v - start.value - start.slope * a for a, v in ((a0, v0), (a1, v1)))
    scale = a0 * a0 * a1 * a1 * (a1 - a0)
    if scale == 0:  # by underflow
        return math.nan
    a = (a0 * a0 * r1 - a1 * a1 * r0) / scale
    b = (a1 * a1 * a1 * r0 - a0 * a0 * a0 * r1) / scale  # a power would raise an error where this is infinite
    if a == 0:
        return interpolate_quadratic(start, last[1])
    square = b * b - 3 * a * start.slope
    return (-b + math.sqrt(square)) / (3 * a) if 0 <= square < math.inf else math.nan

"""Cosine annealing with warm restarts."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Count, Positive, Range


@dataclass(frozen=True)
class WarmRestarts(Schedule):
    """Cosine annealing with warm restarts.

        factor(t) = final + (1 - final) (1 + cos(pi t_i / T_i)) / 2,  T_0 = first,  T_(i+1) = multiplier T_i

    t_i is the time since the last restart. Each period starts at 1 and would reach `final` where the next one starts. A
    run should end with a period, after first (multiplier^n - 1) / (multiplier - 1) for a whole n: the weights after a
    restart are worse. With first = 10 and multiplier = 2 that is after 10, 30, 70 or 150.

    first        T_0, rounded to whole steps
    multiplier   ratio of the lengths of two consecutive periods; 1: all alike
    final        factor at the end of a period
    unit         of first: steps or epochs

    Source: Loshchilov and Hutter 2017, equation 5.
    """

    first: Positive
    multiplier: Count
    final: Annotated[float, Range(ge=0, le=1)]
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        start, period = self._find_period(time.step, time)
        fraction = (time.step - start) / period
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * fraction))

    def span(self, time: TrainingTime) -> int:
        """Return the steps up to the end of the last period of the run."""
        start, period = self._find_period(time.steps - 1, time)
        return start + period

    def _find_period(self, step: int, time: TrainingTime) -> tuple[int, int]:
        """Return the first step of the period of this step, and the length of the period."""
        start, period = 0, max(round(time.in_steps(self.first, self.unit)), 1)
        if self.multiplier == 1:
            return step // period * period, period
        while step >= start + period:
            start, period = start + period, period * self.multiplier
        return start, period

"""Cosine annealing with warm restarts."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Count, Positive, Range


@dataclass(frozen=True)
class WarmRestarts(Schedule):
    """factor(t) = final + (1 - final) (1 + cos(pi t_i / T_i)) / 2,  t_i the time since the last restart.

    The periods are T_0 = first and T_(i+1) = multiplier T_i. Each begins at 1 and would reach `final` where the next
    begins. The weights at the end of a period are good, those after a restart are not: a run should end where a period
    does, which is after first (multiplier^n - 1) / (multiplier - 1) for whole n; with 10 and 2 after 10, 30, 70, 150.

    first        T_0, rounded to whole steps
    multiplier   how many times as long as the one before it each period is; 1: all alike
    final        the factor at the end of a period
    unit         of first: steps or epochs

    Source: Loshchilov and Hutter 2017, equation 5.
    """

    first: Positive
    multiplier: Count
    final: Annotated[float, Range(ge=0, le=1)]
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        begun, period = self._period(time.step, time)
        share = (time.step - begun) / period
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))

    def span(self, time: TrainingTime) -> int:
        """Up to the end of the period in which the run ends."""
        begun, period = self._period(time.steps - 1, time)
        return begun + period

    def _period(self, step: int, time: TrainingTime) -> tuple[int, int]:
        """The step with which the period of this one begins, and how many steps it has."""
        begun, period = 0, max(round(time.in_steps(self.first, self.unit)), 1)
        if self.multiplier == 1:
            return step // period * period, period
        while step >= begun + period:
            begun, period = begun + period, period * self.multiplier
        return begun, period

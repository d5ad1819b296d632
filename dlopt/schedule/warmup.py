"""Warm-up."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative, Range
from dlopt.schedule._leading import count_leading_steps, span_after


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up, followed by another schedule.

        factor(t) = start + (1 - start) (t + 1) / n  at the steps t = 0, 1, ..., n - 1,  then(t - n) afterwards

    The factor is 1 at the last step of the warm-up. Even with start = 0, the first step moves; with t in place of
    t + 1, as in the paper, where start is above zero, it would be wasted. The next schedule counts from the end of the
    warm-up and has the rest of the run: a cosine ends with the run.

    length   n, rounded to whole steps; 0: no warm-up
    unit     of length: steps or epochs
    start    factor one step before the first
    then     the schedule that follows: schedule.then=cosine

    Raises ValueError if the run is shorter than the warm-up.

    Source: Goyal et al. 2017, section 2.2, gradual warmup.
    """

    length: NonNegative
    unit: Unit
    start: Annotated[float, Range(ge=0, le=1)]
    then: Schedule

    def __call__(self, time: TrainingTime) -> float:
        n = self._count_steps(time)
        if time.step < n:
            return self.start + (1.0 - self.start) * ((time.step + 1) / n)
        return self.then(time.after(n))

    def span(self, time: TrainingTime) -> float | None:
        return span_after(self._count_steps(time), self.then, time)

    def _count_steps(self, time: TrainingTime) -> int:
        return count_leading_steps(self.length, self.unit, time, "warm-up")

"""Schedules one after the other."""

from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive
from dlopt.schedule._leading import count_leading_steps, span_after


@dataclass(frozen=True)
class ScheduleSequence(Schedule):
    """One schedule after another, each as if it had a run of its own.

        factor(t) = first(t) in a run of n steps  at the steps t = 0, 1, ..., n - 1,  then(t - n) afterwards

    The next schedule counts from the end of the first and has the rest of the run: a cosine ends with its part. Factors
    may jump where one schedule ends: all are of the same lr. For three parts, the second is a sequence again:

        schedule=sequence schedule.first=cosine schedule.length=10
        schedule.then=sequence schedule.then.first=cosine schedule.then.length=20 schedule.then.then=linear

    length   n, rounded to whole steps
    unit     of length: steps or epochs
    first    the schedule of the first part: schedule.first=linear
    then     the schedule that follows: schedule.then=cosine

    Raises ValueError if the run is shorter than the first part.

    Source: torch.optim.lr_scheduler.SequentialLR, whose parts are not told how long they are.
    """

    length: Positive
    unit: Unit
    first: Schedule
    then: Schedule

    def __call__(self, time: TrainingTime) -> float:
        n = self._count_steps(time)
        return self.first(time._replace(steps=n)) if time.step < n else self.then(time.after(n))

    def span(self, time: TrainingTime) -> float | None:
        return span_after(self._count_steps(time), self.then, time)

    def _count_steps(self, time: TrainingTime) -> int:
        return count_leading_steps(self.length, self.unit, time, "first part", least=1)

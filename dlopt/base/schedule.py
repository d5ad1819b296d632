"""Schedules: a factor over training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from dlopt.base.group import Group
from dlopt.base.history import History

Unit = Literal["steps", "epochs"]


class TrainingTime(NamedTuple):
    """The time in a run: step 0, 1, ..., steps - 1; per_epoch steps are one pass over the data.

    history holds the rows of all evaluations so far, in order: metrics by name, with their "step". In a run it is a
    History, whose `fold` lets a schedule that follows a metric read each row once.
    """

    step: int
    steps: int
    per_epoch: int
    history: Sequence[Mapping[str, float]] = History()

    def t(self, unit: Unit) -> float:
        """Return the number of completed steps, or of epochs as a real number."""
        return self.step if unit == "steps" else self.step / self.per_epoch

    def in_steps(self, length: float | None, unit: Unit | Literal["run"]) -> float:
        """Return a length of time as a real number of steps; None is the length of the run, run: its fraction."""
        if length is None:
            return self.steps
        return length * (self.per_epoch if unit == "epochs" else self.steps if unit == "run" else 1)

    def after(self, n: int) -> TrainingTime:
        """Return this time relative to the rest of the run after n steps."""
        return self._replace(step=self.step - n, steps=self.steps - n)


@Group("schedule", changeable_on_resume=True)
class Schedule:
    """A factor over time. Any callable of a TrainingTime is a schedule; it need not derive from this class.

    A schedule that follows a metric has the metric's name in a field `monitor`. It is checked before a run.
    """

    def __call__(self, time: TrainingTime) -> float:
        """Return the factor at this step, finite and not negative. Raise ValueError if the run has an unusable length.

        It is called before a run starts.
        """
        raise NotImplementedError

    def span(self, time: TrainingTime) -> float | None:
        """Return the number of steps that the formula describes, or None if it has no end.

        If a run is longer or shorter, a notice is printed before it starts.
        """
        return None


def span(schedule: Schedule, time: TrainingTime) -> float | None:
    """Return the span of any schedule; a custom callable need not have one."""
    return schedule.span(time) if isinstance(schedule, Schedule) else None

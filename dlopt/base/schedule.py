"""Schedules: a factor over training time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from dlopt.base.group import Group

Unit = Literal["steps", "epochs"]


class TrainingTime(NamedTuple):
    """A moment of a run: the step numbered 0, 1, ..., steps - 1, of which per_epoch make a pass over the data.

    history holds the rows of the evaluations so far, in order: metrics by their names, each with its "step". From one
    evaluation to the next it is the same object, so that what watches a metric need not look at all of it at each step.
    """

    step: int
    steps: int
    per_epoch: int
    history: tuple[Mapping[str, float], ...] = ()

    def t(self, unit: Unit) -> float:
        """How many steps, or epochs, are done. Epochs are a real number, whole where one ends and the next begins."""
        return self.step if unit == "steps" else self.step / self.per_epoch

    def in_steps(self, length: float | None, unit: Unit) -> float:
        """A length of time as a number of steps, which need not be whole; that of the run where it is null."""
        return self.steps if length is None else length * (self.per_epoch if unit == "epochs" else 1)

    def after(self, n: int) -> TrainingTime:
        """The same moment as one of the run that is left after n steps."""
        return self._replace(step=self.step - n, steps=self.steps - n)


@Group("schedule", changeable_on_resume=True)
class Schedule:
    """A factor over time. Whatever is called with a Time serves as one; it need not derive from this class.

    One that follows a metric names it in a field `monitor`, as a regularization does that stops by one: the metric's
    name is checked before a run.
    """

    def __call__(self, time: TrainingTime) -> float:
        """The factor at this step, finite and not negative.

        ValueError says that a run of this length cannot be; each run is asked before it starts.
        """
        raise NotImplementedError

    def span(self, time: TrainingTime) -> float | None:
        """How many steps of such a run the formula describes before it ends; None where it has no end of its own.

        A run that is longer or shorter is told so before it starts.
        """
        return None


def span(schedule: Schedule, time: TrainingTime) -> float | None:
    """The span of any schedule: people's own need not have one."""
    return schedule.span(time) if isinstance(schedule, Schedule) else None

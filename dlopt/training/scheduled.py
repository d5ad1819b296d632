"""A number that a schedule moves from step to step, in one run or in each of E lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlopt.base import dotted_fields
from dlopt.base.schedule import Schedule, Time
from dlopt.training.experiment import Experiment, Number


@dataclass(frozen=True)
class Course:
    """The schedules of one number, and its values as they were configured, of each run."""

    number: Number
    schedules: Sequence[Schedule]
    values: Sequence[float]

    def at(self, times: Sequence[Time]) -> list[float]:
        """The number at a moment of each run."""
        return [v * s(t) for v, s, t in zip(self.values, self.schedules, times, strict=True)]

    def kept(self, indices: Sequence[int]) -> Course:
        """That of these runs alone."""
        return Course(self.number, [self.schedules[i] for i in indices], [self.values[i] for i in indices])


def courses(experiments: Sequence[Experiment]) -> list[Course]:
    """Every number that moves: the rate, where the rule has one, and those with schedules of their own."""
    first = experiments[0]
    rate = dotted_fields.place(first.optimizer, "lr")
    found = (
        []
        if rate is None
        else [_course(Number("lr", "optimizer", rate), experiments, [e.schedule for e in experiments])]
    )
    return found + [_course(n, experiments, [e.schedules[n] for e in experiments]) for n in first.schedules]


def _course(number: Number, experiments: Sequence[Experiment], schedules: Sequence[Schedule]) -> Course:
    parts = [e.optimizer if number.part == "optimizer" else e.regularization[number.part] for e in experiments]
    return Course(number, schedules, [dotted_fields.value(part, number.field) for part in parts])

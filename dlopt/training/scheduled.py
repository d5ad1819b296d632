"""A number that a schedule moves from step to step, in one run or in each of E lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlopt.base import dotted_fields
from dlopt.base.schedule import Schedule, TrainingTime
from dlopt.training.experiment import Experiment, HyperparameterRef


@dataclass(frozen=True)
class ScheduledHyperparameter:
    """The schedules of one number, and its values as they were configured, of each run."""

    ref: HyperparameterRef
    schedules: Sequence[Schedule]
    values: Sequence[float]

    def values_at(self, times: Sequence[TrainingTime]) -> list[float]:
        """The number at a moment of each run."""
        return [v * s(t) for v, s, t in zip(self.values, self.schedules, times, strict=True)]

    def select_lanes(self, indices: Sequence[int]) -> ScheduledHyperparameter:
        """That of these runs alone."""
        return ScheduledHyperparameter(
            self.ref, [self.schedules[i] for i in indices], [self.values[i] for i in indices]
        )


def find_scheduled_hyperparameters(experiments: Sequence[Experiment]) -> list[ScheduledHyperparameter]:
    """Every number that moves: the rate, where the rule has one, and those with schedules of their own."""
    first = experiments[0]
    rate = dotted_fields.find_field(first.optimizer, "lr")
    found = (
        []
        if rate is None
        else [
            _make_scheduled(HyperparameterRef("lr", "optimizer", rate), experiments, [e.schedule for e in experiments])
        ]
    )
    return found + [_make_scheduled(n, experiments, [e.schedules[n] for e in experiments]) for n in first.schedules]


def _make_scheduled(
    number: HyperparameterRef, experiments: Sequence[Experiment], schedules: Sequence[Schedule]
) -> ScheduledHyperparameter:
    parts = [e.optimizer if number.part == "optimizer" else e.regularization[number.part] for e in experiments]
    return ScheduledHyperparameter(number, schedules, [dotted_fields.get_field(part, number.field) for part in parts])

"""A constant learning rate."""

from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime


@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """A constant learning rate: factor(t) = 1."""

    def __call__(self, time: TrainingTime) -> float:
        return 1.0

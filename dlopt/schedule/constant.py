"""A constant rate."""

from dataclasses import dataclass

from dlopt.parts import Schedule, Time


@dataclass(frozen=True)
class Constant(Schedule):
    """factor(t) = 1."""

    def __call__(self, time: Time) -> float:
        return 1.0

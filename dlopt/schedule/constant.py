"""A constant rate."""

from dataclasses import dataclass

from dlopt.parts import Time


@dataclass(frozen=True)
class Constant:
    """factor(t) = 1."""

    def __call__(self, time: Time) -> float:
        return 1.0

"""A constant rate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """factor(t) = 1."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0

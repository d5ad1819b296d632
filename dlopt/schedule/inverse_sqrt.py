"""Decay as c / sqrt(k)."""

import math
from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """Decay as c / sqrt(k).

        factor(t) = sqrt(offset / k),  k = offset + t,  t = 0 at the first step

    The learning rate is c / sqrt(k) with c = lr sqrt(offset): with offset = 1 in steps it is lr / sqrt(k) for
    k = 1, 2, ... For convex functions with bounded gradients, the mean error falls as 1 / sqrt(k), without any
    knowledge of the function. A large offset delays the decay.

    offset   k at the first step
    unit     of time and of offset: steps or epochs

    Source: Zinkevich 2003, theorem 1.
    """

    offset: Positive
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return math.sqrt(self.offset / (self.offset + time.t(self.unit)))

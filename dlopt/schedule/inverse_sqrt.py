"""Decay by the square root of time."""

import math
from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """factor(t) = sqrt(offset / k),  k = offset + t,  t = 0 at the first step.

    The rate is c / sqrt(k), and lr, the rate of the first step, is c / sqrt(offset): with offset = 1 in steps it is
    c / sqrt(k) for k = 1, 2, .... For convex functions, and gradients as noisy as they like within bounds, the mean of
    the errors falls as 1 / sqrt(k) under it, without any knowledge of the function. A large offset delays the fall.

    offset   k at the first step
    unit     of time and of offset: steps or epochs

    Source: Zinkevich 2003, theorem 1.
    """

    offset: Positive
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return math.sqrt(self.offset / (self.offset + time.t(self.unit)))

"""Exponential decay."""

import math
from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Exponential(Schedule):
    """factor(t) = e^(-k t), t = 0 at the first step.

    The rate falls by the same share in every unit of time, to a half every ln 2 / k. In epochs t is a real number, so
    it falls at every step; the staircase that falls between epochs alone is schedule=step with gamma = e^-k, every = 1.

    k      decay per unit of time
    unit   of time: steps or epochs

    Source: Senior et al. 2013, exponential scheduling, there to the base 10.
    """

    k: NonNegative
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return math.exp(-self.k * time.t(self.unit))

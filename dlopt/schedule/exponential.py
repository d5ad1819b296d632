"""Exponential decay."""

import math
from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Exponential(Schedule):
    """Exponential decay: factor(t) = e^(-k t), t = 0 at the first step.

    The learning rate is halved every ln 2 / k. In epochs, t is a real number, so the rate falls at every step. For a
    fall after each epoch only, use schedule=step with gamma = e^-k and every = 1.

    k      decay per unit of time
    unit   of time: steps or epochs

    Source: Senior et al. 2013, exponential scheduling, there to the base 10.
    """

    k: NonNegative
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return math.exp(-self.k * time.t(self.unit))

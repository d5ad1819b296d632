"""Cosine annealing."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime
from dlopt.ranges import Range


@dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine annealing over the whole run.

        factor(t) = final + (1 - final) (1 + cos(pi t / T)) / 2,  t = 0, 1, ..., T - 1 in steps

    The factor starts at 1 and would reach final at t = T, one step after the last.

    final   factor at the end of the run

    Source: Loshchilov and Hutter 2017, equation 5, a single period.
    """

    final: Annotated[float, Range(ge=0, le=1)]

    def __call__(self, time: TrainingTime) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * time.step / time.steps))

    def span(self, time: TrainingTime) -> float:
        return time.steps

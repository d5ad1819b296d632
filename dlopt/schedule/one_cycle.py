"""One cycle."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime
from dlopt.ranges import Fraction, Range


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle: the learning rate rises from start to its peak, then falls to final at the last step.

        factor = a + (b - a) (1 - cos(pi x)) / 2,  from a to b as x goes from 0 to 1

    lr is the peak, and may be larger than a constant rate could be. Of the steps 0, 1, ..., T - 1, the peak is step
    peak T - 1. In the paper both parts are straight, and momentum falls while the rate rises, then rises again.

    start   factor at the first step
    peak    fraction of the run after which the factor is 1; 0: it falls from the first step on
    final   factor at the last step

    Source: Smith 2018; the cosines and the defaults are those of torch's OneCycleLR.
    """

    start: Annotated[float, Range(gt=0, le=1)]
    peak: Fraction
    final: Annotated[float, Range(ge=0, le=1)]

    def __call__(self, time: TrainingTime) -> float:
        top, last = max(self.peak * time.steps - 1, 0.0), time.steps - 1
        if time.step < top:
            return _interpolate(self.start, 1.0, time.step / top)
        return _interpolate(1.0, self.final, (time.step - top) / (last - top)) if last > top else 1.0

    def span(self, time: TrainingTime) -> float:
        return time.steps


def _interpolate(a: float, b: float, x: float) -> float:
    """Return the value at x of half a cosine from a, at x = 0, to b, at x = 1."""
    return b + (a - b) * 0.5 * (1.0 + math.cos(math.pi * x))

"""One cycle."""

import math
from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime
from dlopt.ranges import Fraction, Range


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From start up to 1 at the share `peak` of the run, then down to final at its last step.

    Both ways go along half a cosine, from a to b while x goes from 0 to 1:

        factor = a + (b - a) (1 - cos(pi x)) / 2

    The rate lr is the peak, and may be larger than a constant rate could be. Of the steps 0, 1, ..., T - 1 the peak is
    that numbered peak T - 1. In the paper the ways are straight, and momentum falls while the rate climbs, then climbs
    again.

    start   the factor at the first step
    peak    the share of the run after which the factor is 1; 0: it falls from the first step on
    final   the factor at the last step

    Source: Smith 2018, the policy of one cycle; the cosines, and the numbers, are those of torch's OneCycleLR.
    """

    start: Annotated[float, Range(gt=0, le=1)]
    peak: Fraction
    final: Annotated[float, Range(ge=0, le=1)]

    def __call__(self, time: TrainingTime) -> float:
        top, last = max(self.peak * time.steps - 1, 0.0), time.steps - 1
        if time.step < top:
            return _between(self.start, 1.0, time.step / top)
        return _between(1.0, self.final, (time.step - top) / (last - top)) if last > top else 1.0

    def span(self, time: TrainingTime) -> float:
        return time.steps


def _between(a: float, b: float, x: float) -> float:
    """Half a cosine from a, at x = 0, to b, at x = 1."""
    return b + (a - b) * 0.5 * (1.0 + math.cos(math.pi * x))

"""Step decay at given times."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from dlopt.errors import OptionError
from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Step decay at given times: factor(t) = gamma^n, n the number of milestones <= t, t = 0 at the first step.

    milestones   times of the falls, increasing: with [30, 60] in epochs, the first 30 epochs have the factor 1
    gamma        factor of each fall
    unit         of the milestones: steps or epochs

    Raises OptionError if the milestones do not increase.

    Source: He, Zhang, Ren and Sun 2016, section 4.2: gamma 0.1; torch's MultiStepLR.
    """

    milestones: Sequence[Positive]
    gamma: Annotated[float, Range(gt=0, le=1)]
    unit: Unit

    def __post_init__(self) -> None:
        for a, b in pairwise(self.milestones):
            if a >= b:
                raise OptionError("milestones", f"must increase, got {a:.10g} before {b:.10g}")

    def __call__(self, time: TrainingTime) -> float:
        t = time.t(self.unit)
        return self.gamma ** sum(milestone <= t for milestone in self.milestones)

    def span(self, time: TrainingTime) -> float | None:
        """Return None, or the steps up to the last fall if the run ends before it."""
        last = time.in_steps(max(self.milestones, default=0.0), self.unit)
        return last + 1 if last >= time.steps else None

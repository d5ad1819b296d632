"""Step decay."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Count, Range


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Step decay: factor(t) = gamma^floor(t / every), t = 0 at the first step.

    In epochs it falls at the start of an epoch, unless a warm-up precedes it that is not a whole number of epochs long.

    gamma   factor of each fall
    every   steps or epochs between two falls
    unit    of every: steps or epochs

    Source: Szegedy et al. 2015, Going deeper with convolutions, section 6: gamma 0.96, every 8 epochs.
    """

    gamma: Annotated[float, Range(gt=0, le=1)]
    every: Count
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return self.gamma ** (time.t(self.unit) // self.every)

    def span(self, time: TrainingTime) -> float | None:
        """Return None, or the steps up to the first fall if the run ends before it."""
        first = time.in_steps(self.every, self.unit)
        return first + 1 if first >= time.steps else None

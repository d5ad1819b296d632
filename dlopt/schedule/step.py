"""Step decay."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Count, Range


@dataclass(frozen=True)
class StepDecay(Schedule):
    """factor(t) = gamma^floor(t / every), t = 0 at the first step.

    A staircase: constant, then lower at once. In epochs it falls where one of its own begins: since every is whole,
    where an epoch of the run begins, unless a warm-up of another length stands in front of it.

    gamma   the factor of each fall
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
        """Falls have no end; a run before the first of them is shorter than what there is to see."""
        first = time.in_steps(self.every, self.unit)
        return first + 1 if first >= time.steps else None

"""Polyak averaging."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dlopt.averaging._mean import MeanState, RunningMean, count_steps
from dlopt.parts import TrainingTime
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Polyak(RunningMean):
    """Polyak averaging: the mean of all iterates from a start step on.

        w_mean <- w_mean + (w - w_mean) / n,  n = 1, 2, ... from `start` on

    Far from the solution the iterates move, and a mean lags behind. Near it they circle, and the mean lies in the
    middle: on convex problems it is asymptotically as good as any method that has seen the same gradients, at a larger
    learning rate than the iterates could use alone. So the first part of a run is left out.

    start   start of the average; 0: the first step
    unit    of start: steps, epochs, or run for a fraction of the run (0.5: its second half)

    Source: Polyak and Juditsky 1992; Goodfellow, Bengio and Courville 2016, section 8.7.3.
    """

    start: NonNegative
    unit: Literal["steps", "epochs", "run"]

    def first(self, time: TrainingTime) -> int:
        return count_steps(self.start, self.unit, time)

    def update(self, state: MeanState, w: Tensor, time: TrainingTime) -> MeanState:
        n = time.step - self.first(time) + 1
        return MeanState(state.w.lerp_(w, 1.0 / n))

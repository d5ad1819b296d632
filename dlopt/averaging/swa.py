"""Stochastic weight averaging."""

import math
from dataclasses import dataclass

from torch import Tensor

from dlopt.averaging._mean import MeanState, RunningMean
from dlopt.parts import TrainingTime
from dlopt.ranges import Count, Fraction


@dataclass(frozen=True)
class StochasticWeightAveraging(RunningMean):
    """Stochastic weight averaging: the mean of the iterates at the ends of epochs, late in the run.

        w_swa <- (n w_swa + w) / (n + 1),  every `every` epochs, with n iterates averaged before

    The first one is at the fraction start_fraction of the run, or at the next end of such a period. The iterates should
    be far apart: use a learning rate that stays large, or one that restarts with period `every`. If the schedule ends
    near zero, they are nearly equal, and so is their mean. Batch-normalization statistics are recomputed for the mean.

    start_fraction   fraction of the run before the first averaged iterate
    every            epochs between two averaged iterates (c of the paper)

    Source: Izmailov et al. 2018, algorithm 1, which includes the iterate at the start.
    """

    start_fraction: Fraction
    every: Count

    def first(self, time: TrainingTime) -> int:
        period = self.every * time.per_epoch
        start = round(self.start_fraction * time.steps / period, 9)  # so that rounding does not add a period
        return max(math.ceil(start), 1) * period - 1

    def update(self, state: MeanState, w: Tensor, time: TrainingTime) -> MeanState:
        n, within = divmod(time.step - self.first(time), self.every * time.per_epoch)
        return state if within else MeanState(state.w.lerp_(w, 1.0 / (n + 1)))

"""Exponential moving average of the iterates."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dlopt.averaging._mean import MeanState, RunningMean, count_steps
from dlopt.parts import TrainingTime
from dlopt.ranges import Count, Fraction, NonNegative


@dataclass(frozen=True)
class ExponentialMovingAverage(RunningMean):
    """Exponential moving average of the iterates, with bias correction.

        w_mean = u_n / (1 - decay^n)  with  u_n = decay u_(n-1) + (1 - decay) w_n,  u_0 = 0
        w_mean <- w_mean + (w_n - w_mean) (1 - decay) / (1 - decay^n)

    w_n is the n-th averaged iterate, n = 1, 2, ...: the iterate after `interval` more steps, counted from `start`. With
    start=0 and interval=1 it is the iterate after step n; the initial weights are not included. Without the correction
    the average would start at zero. The second line, the same quotient, is the stored form. Early on it is nearly the
    mean of all averaged iterates; later about the last 1 / (1 - decay) count, that is, interval / (1 - decay) steps.

    decay      factor of the weight of an earlier iterate at each averaged one
    start      start of the average; 0: the first step
    interval   steps between two averaged iterates: it saves time if the network is large
    unit       of start: steps, epochs, or run for a fraction of the run

    Source: Kingma and Ba 2015, section 7.2.
    """

    decay: Fraction
    start: NonNegative
    interval: Count
    unit: Literal["steps", "epochs", "run"]

    def first(self, time: TrainingTime) -> int:
        return count_steps(self.start, self.unit, time) + self.interval - 1

    def update(self, state: MeanState, w: Tensor, time: TrainingTime) -> MeanState:
        n, within = divmod(time.step - self.first(time), self.interval)
        return state if within else MeanState(state.w.lerp_(w, (1.0 - self.decay) / (1.0 - self.decay ** (n + 1))))

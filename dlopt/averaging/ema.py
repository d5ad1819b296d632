"""Exponential moving average of the iterates."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.averaging._mean import MeanState, RunningMean
from dlopt.parts import TrainingTime
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class ExponentialMovingAverage(RunningMean):
    """Exponential moving average of the iterates, with bias correction.

        w_mean = u_n / (1 - decay^n)  with  u_n = decay u_(n-1) + (1 - decay) w_n,  u_0 = 0
        w_mean <- w_mean + (w_n - w_mean) (1 - decay) / (1 - decay^n)

    w_n is the iterate after step n = 1, 2, ...; the initial weights are not included. Without the correction the
    average would start at zero. The second line, the same quotient, is the stored form. Early on it is nearly the mean
    of all iterates; later about the last 1 / (1 - decay) count.

    decay   factor of the weight of an earlier iterate at each step

    Source: Kingma and Ba 2015, section 7.2.
    """

    decay: Fraction

    def update(self, state: MeanState, w: Tensor, time: TrainingTime) -> MeanState:
        n = time.step + 1
        return MeanState(state.w.lerp_(w, (1.0 - self.decay) / (1.0 - self.decay**n)))

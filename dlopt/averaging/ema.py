"""The exponential moving average of the iterates."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging, TrainingTime
from dlopt.ranges import Fraction


class EMAState(NamedTuple):
    w: Tensor  # (..., P)


@dataclass(frozen=True)
class ExponentialMovingAverage(Averaging):
    """w_mean = u_n / (1 - decay^n) with u_n = decay u_(n-1) + (1 - decay) w_n and u_0 = 0, w_n the n-th iterate.

    Without the division it would begin at zero and be too small at first. What is kept is the quotient itself,

        w_mean <- w_mean + (w - w_mean) (1 - decay) / (1 - decay^n)

    which begins at the first iterate, is nearly the mean of all while they are few, and forgets as it goes on: in the
    end about the last 1 / (1 - decay) iterates count. The initial weights, before any step, are not in it.

    decay   of the weight of a former iterate, at each step

    Source: Kingma and Ba 2015, section 7.2.
    """

    decay: Fraction

    def init(self, w: Tensor) -> EMAState:
        return EMAState(torch.zeros_like(w))

    def update(self, state: EMAState, w: Tensor, time: TrainingTime) -> EMAState:
        n = time.step + 1
        return EMAState(state.w.lerp_(w, (1.0 - self.decay) / (1.0 - self.decay**n)))

    def value(self, state: EMAState) -> Tensor:
        return state.w

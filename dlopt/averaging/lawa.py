"""Latest weight averaging."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging, TrainingTime, Unit
from dlopt.ranges import Count


class LatestState(NamedTuple):
    recent: Tensor  # (..., k, P), the iterates taken last, the n-th in row (n - 1) mod k
    n: int  # iterates taken


@dataclass(frozen=True)
class LatestWeightAveraging(Averaging):
    """Latest weight averaging (LAWA): the mean of the last k iterates that were taken at regular times.

        w_mean = (w_n + w_(n-1) + ... + w_(n-m+1)) / m,  m = min(k, n)

    w_n is the iterate after n intervals. A window forgets the start of the run exactly, where an exponential average
    only fades it. It costs the memory of k networks.

    k          number of iterates in the mean
    interval   time between two of them
    unit       of interval: steps or epochs

    Source: Kaddour 2022: k = 6 for ResNet-50 on ImageNet, taken at the ends of epochs.
    """

    k: Count
    interval: Count
    unit: Unit

    def first(self, time: TrainingTime) -> int:
        return self._count_period(time) - 1

    def init(self, w: Tensor) -> LatestState:
        return LatestState(w.new_zeros(*w.shape[:-1], self.k, w.shape[-1]), 0)

    def update(self, state: LatestState, w: Tensor, time: TrainingTime) -> LatestState:
        if (time.step + 1) % self._count_period(time):
            return state
        state.recent.select(-2, state.n % self.k).copy_(w)
        return LatestState(state.recent, state.n + 1)

    def value(self, state: LatestState) -> Tensor:
        return torch.mean(state.recent[..., : min(state.n, self.k), :], dim=-2)

    def _count_period(self, time: TrainingTime) -> int:
        return int(time.in_steps(self.interval, self.unit))

"""Stochastic weight averaging."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging, TrainingTime
from dlopt.ranges import Count, Fraction


class SWAState(NamedTuple):
    w: Tensor  # (..., P)


@dataclass(frozen=True)
class StochasticWeightAveraging(Averaging):
    """w_swa <- (n w_swa + w) / (n + 1), n iterates taken in before: at the end of every so many epochs.

    The first of them is that at the share `start` of the run, or the next end of such epochs. The iterates should lie
    apart: use a rate that stays large from there on, or that restarts, with every the length of its period. A schedule
    that ends near zero leaves iterates that are all alike, and their mean is one of them.

    start_fraction   the share of the run before the first iterate that is taken in
    every   c of the paper, in epochs: between two iterates that are taken in

    Source: Izmailov et al. 2018, algorithm 1, whose first model is that at the start; statistics of batch normalization
    are computed anew for the mean, as there.
    """

    start_fraction: Fraction
    every: Count

    def first(self, time: TrainingTime) -> int:
        each = self.every * time.per_epoch
        begun = round(self.start_fraction * time.steps / each, 9)  # so that no rounding makes it one more
        return max(math.ceil(begun), 1) * each - 1

    def init(self, w: Tensor) -> SWAState:
        return SWAState(torch.zeros_like(w))

    def update(self, state: SWAState, w: Tensor, time: TrainingTime) -> SWAState:
        n, within = divmod(time.step - self.first(time), self.every * time.per_epoch)
        return state if within else SWAState(state.w.lerp_(w, 1.0 / (n + 1)))

    def value(self, state: SWAState) -> Tensor:
        return state.w

"""Polyak averaging."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging, TrainingTime
from dlopt.ranges import NonNegative


class PolyakState(NamedTuple):
    w: Tensor  # (..., P)


@dataclass(frozen=True)
class Polyak(Averaging):
    """w_mean = (w_1 + ... + w_n) / n over the iterates after each step from `start` on, kept as a running mean:

        w_mean <- w_mean + (w - w_mean) / n

    Far from the solution the iterates move, and a mean only lags behind; near it they circle around, and the mean lies
    in the middle: for convex problems it is asymptotically as good as any method that has seen the same gradients, at a
    rate larger than the iterates themselves could bear. So the first part of a run is left out.

    start   what goes before is left out; 0: nothing
    unit    of start: steps, epochs, or run for a share of the run (0.5: its second half)

    Source: Polyak and Juditsky 1992; Goodfellow, Bengio and Courville 2016, section 8.7.3.
    """

    start: NonNegative
    unit: Literal["steps", "epochs", "run"]

    def first(self, time: TrainingTime) -> int:
        begun = self.start * {"steps": 1, "epochs": time.per_epoch, "run": time.steps}[self.unit]
        return round(min(begun, time.steps))

    def init(self, w: Tensor) -> PolyakState:
        return PolyakState(torch.zeros_like(w))

    def update(self, state: PolyakState, w: Tensor, time: TrainingTime) -> PolyakState:
        n = time.step - self.first(time) + 1
        return PolyakState(state.w.lerp_(w, 1.0 / n))

    def value(self, state: PolyakState) -> Tensor:
        return state.w

"""The state of a mean and the step at which it starts, for the options of this group."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging, TrainingTime


class MeanState(NamedTuple):
    w: Tensor  # (..., P)


class RunningMean(Averaging):
    """An average whose state is the mean itself."""

    def init(self, w: Tensor) -> MeanState:
        return MeanState(torch.zeros_like(w))

    def value(self, state: MeanState) -> Tensor:
        return state.w


def count_steps(start: float, unit: Literal["steps", "epochs", "run"], time: TrainingTime) -> int:
    """Return the steps before the start of an average, at most those of the run; run: start is a fraction of it."""
    return round(min(time.in_steps(start, unit), time.steps))

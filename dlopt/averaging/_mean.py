"""The state that all averages share."""

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Averaging


class MeanState(NamedTuple):
    w: Tensor  # (..., P)


class RunningMean(Averaging):
    """An average whose state is the mean itself."""

    def init(self, w: Tensor) -> MeanState:
        return MeanState(torch.zeros_like(w))

    def value(self, state: MeanState) -> Tensor:
        return state.w

"""Zero weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ZerosInit:
    """W = 0. Hidden weights of tanh and ReLU networks then get no gradient: for demonstration only."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

"""All weights zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ZerosInit:
    """W = 0. Hidden weights of tanh and ReLU nets then get no gradient: a demonstration, not a start."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

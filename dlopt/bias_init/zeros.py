"""All biases zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ZerosBias:
    """b = 0: the usual start; the weights alone break symmetry."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

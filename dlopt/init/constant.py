"""Equal weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ConstantInit:
    """W_ij = value. For demonstration only.

    Units of a layer with equal weights, in and out, compute the same value and get the same gradient: the layer stays
    equivalent to one unit.

    value   value of every weight

    Source: Goodfellow, Bengio and Courville 2016, section 8.4, on breaking symmetry.
    """

    value: float

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.full(parameter.shape, self.value)

"""All weights the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ConstantInit:
    """W_ij = value. A demonstration, not a start.

    Units of a layer that have the same weights, in and out, compute the same and get the same gradient: they move
    together, and the layer stays as good as one unit.

    value   of every weight

    Source: Goodfellow, Bengio and Courville 2016, section 8.4, on breaking symmetry.
    """

    value: float

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.full(parameter.shape, self.value)

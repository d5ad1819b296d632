"""Equal biases."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ConstantBias:
    """b_i = value. With a small positive value ReLU units start active, with a gradient, on most examples.

    It applies to every bias, also in the output layer. Before a normalization it has no effect: the mean is subtracted.

    value   value of every bias

    Source: Goodfellow, Bengio and Courville 2016, section 8.4.
    """

    value: float

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.full(parameter.shape, self.value)

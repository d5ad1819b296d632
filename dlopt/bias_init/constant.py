"""All biases the same."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class ConstantBias:
    """b_i = value. A small positive one lets ReLU units begin active, with a gradient, on most of the examples.

    It is for every bias, the output layer's too. Behind a normalization it has no effect: the mean is subtracted again.

    value   of every bias

    Source: Goodfellow, Bengio and Courville 2016, section 8.4.
    """

    value: float

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.full(parameter.shape, self.value)

"""Sparse initialization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.ranges import Count, Positive


@dataclass(frozen=True)
class Sparse:
    """k = min(nonzero, fan_in) random weights of each unit are N(0, std^2), and all others are zero.

    So the input of a unit has the variance k std^2 E[x^2] for any layer size, while the nonzero weights stay large and
    units differ from each other. A unit of a convolution, transposed or not, is one of its output channels. Its
    weights include the receptive field.

    nonzero   number of nonzero weights of each unit, or all if it has fewer
    std       standard deviation of those weights

    Source: Martens 2010, section 5: 15 weights with std 1, biases 0, or 0.5 for tanh.
    """

    nonzero: Count
    std: Positive

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        w = torch.zeros(parameter.size)
        rows = parameter.split_units(w).transpose(-3, -2)  # (groups, units, inputs, rest)
        units, inputs = rows.shape[:2].numel(), rows.shape[2:].numel()
        k = min(self.nonzero, inputs)
        inputs_of_units = torch.rand(units, inputs, dtype=torch.float64, generator=generator).topk(k).indices
        values = torch.randn(units, k, generator=generator) * self.std
        rows.copy_(torch.zeros(units, inputs).scatter(1, inputs_of_units, values).view(rows.shape))
        return w.view(parameter.shape)

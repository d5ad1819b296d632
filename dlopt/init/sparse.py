"""Sparse initialization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.ranges import Count, Positive


@dataclass(frozen=True)
class Sparse:
    """Of the weights that lead into a unit, k = min(nonzero, fan_in) at random are N(0, std^2), and all others zero.

    So the input of a unit has the variance k std^2 E[x^2], whatever the size of the layer, while the weights that are
    there stay large and units differ much from each other. A unit of a convolution is one of its output channels, with
    fan_in weights, receptive field included.

    nonzero   weights of each unit that are not zero; all of them where it has no more
    std       standard deviation of those weights

    Source: Martens 2010, section 5: 15 weights with std 1, biases 0, or 0.5 for tanh.
    """

    nonzero: Count
    std: Positive

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        units = parameter.shape[0]
        inputs = parameter.size // units
        k = min(self.nonzero, inputs)
        chosen = torch.rand(units, inputs, dtype=torch.float64, generator=generator).topk(k).indices
        values = torch.randn(units, k, generator=generator) * self.std
        return torch.zeros(units, inputs).scatter(1, chosen, values).reshape(parameter.shape)

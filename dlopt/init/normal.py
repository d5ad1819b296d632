"""A normal distribution of a given width."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.ranges import NonNegative
from dlopt.weights import Parameter


@dataclass(frozen=True)
class Normal:
    """W ~ N(0, std^2), whatever the layer's size: activations vanish or saturate with depth unless std fits.

    std   standard deviation
    """

    std: NonNegative

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * self.std

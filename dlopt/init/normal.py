"""A normal distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Normal:
    """W ~ N(0, std^2), for any layer size: activations vanish or saturate with depth unless std fits.

    Slip: the NYU lecture warns of a large std because "you want to be near the non-linear part" of the activation;
    it should be near the linear part: far from it units saturate and gradients nearly vanish.

    std   standard deviation

    Source: Goodfellow, Bengio and Courville 2016, section 8.4.
    """

    std: NonNegative

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * self.std

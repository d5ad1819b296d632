"""He initialization, normal."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class He:
    """W ~ N(0, 2 / fan_in): keeps the forward variance level under ReLU, which halves the mean square in each layer.

    It does not depend on the activation. init=variance_scaling has the same variance for relu, and that of the gain of
    any other activation.

    Source: He, Zhang, Ren and Sun 2015, equation 10.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * math.sqrt(2.0 / parameter.fan_in)

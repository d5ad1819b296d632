"""He initialization, normal."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain


@dataclass(frozen=True)
class He:
    """W ~ N(0, gain^2 / fan_in), with the gain sqrt(2) of ReLU, which halves the mean square in each layer.

    So the variance 2 / fan_in keeps the forward variance level under ReLU. With the default gain it does not depend on
    the activation. With gain=auto it is init=variance_scaling.

    gain   a factor, or auto: the gain of the activation (1 for tanh, sqrt(2) for ReLU)

    Source: He, Zhang, Ren and Sun 2015, equation 10.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        std = resolve_gain(self.gain, gain) / math.sqrt(parameter.fan_in)
        return torch.randn(parameter.shape, generator=generator) * std

"""Xavier (Glorot) initialization, normal."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain


@dataclass(frozen=True)
class XavierNormal:
    """W ~ N(0, gain^2 2 / (fan_in + fan_out)): the variance of init=xavier with a normal distribution.

    gain   a factor, or auto: the gain of the activation (1 for tanh, sqrt(2) for ReLU)

    Source: Glorot and Bengio 2010, equation 12, for its variance.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        factor = resolve_gain(self.gain, gain)
        std = factor * math.sqrt(2.0 / (parameter.fan_in + parameter.fan_out))
        return torch.randn(parameter.shape, generator=generator) * std

"""He initialization, uniform."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain


@dataclass(frozen=True)
class HeUniform:
    """W ~ U(-b, b) with b = gain sqrt(3 / fan_in): the variance gain^2 / fan_in of init=he with a uniform distribution.

    gain   a factor, by default the sqrt(2) of ReLU, or auto: the gain of the activation

    Source: He, Zhang, Ren and Sun 2015, equation 10, for its variance.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        bound = resolve_gain(self.gain, gain) * math.sqrt(3.0 / parameter.fan_in)
        return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)

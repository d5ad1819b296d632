"""He initialization, uniform."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class HeUniform:
    """W ~ U(-b, b) with b = sqrt(6 / fan_in): the variance 2 / fan_in of init=he with a uniform distribution.

    Source: He, Zhang, Ren and Sun 2015, equation 10, for its variance.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        bound = math.sqrt(6.0 / parameter.fan_in)
        return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)

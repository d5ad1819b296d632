"""The uniform heuristic from the number of inputs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class FanInUniform:
    """W ~ U(-1/sqrt(m), 1/sqrt(m)) for units of m = fan_in inputs, so Var W = 1 / (3 m).

    Each linear layer divides the variance by three, so signals vanish in deep networks. It is the default of torch's
    Linear and Conv layers.

    Slip: the Ren lecture has U(-1/sqrt(m), 1/sqrt(n)), with the number of outputs n in the upper bound; both are m.

    Source: Goodfellow, Bengio and Courville 2016, section 8.4; Glorot and Bengio 2010, equation 1.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        bound = 1.0 / math.sqrt(parameter.fan_in)
        return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)

"""The uniform heuristic from the number of inputs."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain


@dataclass(frozen=True)
class FanInUniform:
    """W ~ U(-b, b) with b = gain / sqrt(m) for units of m = fan_in inputs, so Var W = gain^2 / (3 m).

    With gain 1 each linear layer divides the variance by three, so signals vanish in deep networks. It is the default
    of torch's Linear and Conv layers.

    Slip: the Ren lecture has U(-1/sqrt(m), 1/sqrt(n)), with the number of outputs n in the upper bound; both are m.

    gain   a factor, or auto: the gain of the activation (1 for tanh, sqrt(2) for ReLU)

    Source: Goodfellow, Bengio and Courville 2016, section 8.4; Glorot and Bengio 2010, equation 1.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        bound = resolve_gain(self.gain, gain) / math.sqrt(parameter.fan_in)
        return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)

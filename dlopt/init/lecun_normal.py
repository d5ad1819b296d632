"""LeCun initialization, normal."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain


@dataclass(frozen=True)
class LecunNormal:
    """W ~ N(0, gain^2 / fan_in), gain 1: with linear units a sum over fan_in inputs has their variance.

    Under ReLU, which halves the mean square, signals shrink by sqrt(2) per layer; gain=auto and init=he compensate for
    that.

    Slip: the NYU lecture calls this variance Xavier's; Glorot and Bengio's is 2 / (fan_in + fan_out), which is equal
    only for square layers.

    gain   a factor, or auto: the gain of the activation (1 for tanh, sqrt(2) for ReLU)

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", equation 16.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * (
            resolve_gain(self.gain, gain) / math.sqrt(parameter.fan_in)
        )

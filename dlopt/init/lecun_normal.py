"""LeCun initialization, normal."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class LecunNormal:
    """W ~ N(0, 1 / fan_in): with linear units a sum over fan_in inputs has their variance.

    Under ReLU, which halves the mean square, signals shrink by sqrt(2) per layer; init=he compensates for that.

    Slip: the NYU lecture calls this variance Xavier's; Glorot and Bengio's is 2 / (fan_in + fan_out), which is equal
    only for square layers.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", equation 16.
    """

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * math.sqrt(1.0 / parameter.fan_in)

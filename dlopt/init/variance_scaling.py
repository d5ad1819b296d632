"""Variance scaling by the gain of the activation."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.ranges import Positive


@dataclass(frozen=True)
class VarianceScaling:
    """W ~ N(0, gain^2 / fan_in): init=he for any activation.

    A unit's sum over fan_in inputs then has gain^2 times their mean square. Sums of mean square 1 keep it through an
    activation f that grows without bound, with

        gain = 1 / sqrt(E[f(z)^2]),  z ~ N(0, 1)

    This is sqrt(2) for relu, as in init=he, 1.53 for gelu, 1.68 for silu, 1.25 for elu, 1.04 for softplus, and 1 for
    selu, whose scale is made for it. The gain of the bounded tanh and sigmoid is 1.

    With depth, departures from 1 shrink for elu, selu and softplus and grow for gelu and silu. In 20 layers of 500
    units, inputs of mean square 1 lead to sums of mean square 32 for gelu and 770 for silu. With the gain sqrt(2) of
    init=he it is 0.02 for gelu, 5e-5 for silu, 13 for elu and softplus, and 120 for selu. Add a normalization.

    gain   a factor, or auto: the gain of the activation

    Source: He, Zhang, Ren and Sun 2015, equations 10 and 15, with E[f(z)^2] in place of theirs for rectifiers.
    """

    gain: Positive | Literal["auto"]

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        factor = gain if self.gain == "auto" else float(self.gain)
        return torch.randn(parameter.shape, generator=generator) * (factor / math.sqrt(parameter.fan_in))

"""Variance scaling by the gain of the activation."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain
from dlopt.init._truncation import TRUNCATED_STD, sample_truncated_normal


@dataclass(frozen=True)
class VarianceScaling:
    """W with mean 0 and variance gain^2 / n: init=he for any activation, any fan and three distributions.

        mode=fan_in    n = fan_in: keeps the variance of the signal on the way forward
        mode=fan_out   n = fan_out: keeps that of the gradient on the way back
        mode=fan_avg   n = (fan_in + fan_out) / 2: a compromise, the variance of init=xavier

    A unit's sum over fan_in inputs then has gain^2 times their mean square. Sums of mean square 1 keep it through an
    activation f that grows without bound, with

        gain = 1 / sqrt(E[f(z)^2]),  z ~ N(0, 1)

    This is sqrt(2) for relu, as in init=he, 1.53 for gelu, 1.68 for silu, 1.25 for elu, 1.04 for softplus, and 1 for
    selu, whose scale is made for it. The gain of the bounded tanh and sigmoid is 1.

    With depth, departures from 1 shrink for elu, selu and softplus and grow for gelu and silu. In 20 layers of 500
    units, inputs of mean square 1 lead to sums of mean square 32 for gelu and 770 for silu. With the gain sqrt(2) of
    init=he it is 0.02 for gelu, 5e-5 for silu, 13 for elu and softplus, and 120 for selu. Add a normalization.

    distribution=truncated_normal is a normal distribution that ends at two standard deviations. It is widened by 1.137,
    so that the variance is gain^2 / n after the truncation. Keras does the same; torch.nn.init.trunc_normal_ does not.

    gain           a factor, or auto: the gain of the activation. Keras' scale is gain^2
    mode           fan_in, fan_out or fan_avg
    distribution   normal, truncated_normal or uniform, all of the same variance

    Source: He, Zhang, Ren and Sun 2015, equations 10, 14 and 15, with E[f(z)^2] in place of theirs for rectifiers; the
    initializer VarianceScaling of Keras.
    """

    gain: Gain
    mode: Literal["fan_in", "fan_out", "fan_avg"]
    distribution: Literal["normal", "truncated_normal", "uniform"]

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        fans = {"fan_in": parameter.fan_in, "fan_out": parameter.fan_out}
        n = fans.get(self.mode, (parameter.fan_in + parameter.fan_out) / 2)
        std = resolve_gain(self.gain, gain) / math.sqrt(n)
        if self.distribution == "normal":
            return torch.randn(parameter.shape, generator=generator) * std
        if self.distribution == "uniform":
            bound = math.sqrt(3.0) * std
            return torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        return (sample_truncated_normal(parameter.shape, generator) * (std / TRUNCATED_STD)).float()

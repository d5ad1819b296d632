"""Random walk initialization."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class RandomWalk:
    """W ~ N(0, g^2 / N), N = fan_in, with the g for which the logarithm of a back-propagated gradient has no drift.

        units=linear   g = exp(1 / (2 N))
        units=relu     g = sqrt(2) exp(1.2 / (max(N, 6) - 2.4))

    Each layer multiplies the squared length of the gradient by a random number. He's variance (g = sqrt(2)) gives this
    number the mean one, but its logarithm the mean -2.5 / N approximately, and logarithms add up: almost every network
    of depth D loses a factor exp(2.5 D / N). With the g above the logarithm is a random walk without drift. It differs
    from He's by a hundredth at N = 100, so it matters for networks that are deeper than wide. The second formula is the
    paper's fit to simulations; its drift is below 0.001 per layer from N = 100 on.

    units   units of the hidden layers: relu or linear. For others the paper finds g by simulation; tanh near zero is
            linear

    Source: Sussillo and Abbott 2014, the optimal g of linear and of ReLU nets; N is the width there, of all layers.
    """

    units: Literal["relu", "linear"]

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        n = parameter.fan_in
        g = math.exp(0.5 / n) if self.units == "linear" else math.sqrt(2.0) * math.exp(1.2 / (max(n, 6) - 2.4))
        return torch.randn(parameter.shape, generator=generator) * (g / math.sqrt(n))

"""The Gaussian error linear unit."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import nn

from dlopt.activation._quadrature import mean_square


@dataclass(frozen=True)
class GELU:
    """f(x) = x Phi(x), with Phi the distribution function of N(0, 1), or the approximation of the paper.

        approximate=none   f(x) = x Phi(x)
        approximate=tanh   f(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    It is smooth and not monotone: its minimum is -0.17, at x = -0.75. The approximation differs by at most 4.8e-4;
    GPT-2 and BERT were trained with it. With z ~ N(0, 1) E[f(z)^2] = 1/3 + 1 / (2 pi sqrt(3)) for the exact form, hence
    the gain 1.53, one over its root. The gain of the approximation is found by quadrature.

    approximate   none, or tanh

    Source: Hendrycks and Gimpel 2016, sections 2 and 3.
    """

    approximate: Literal["none", "tanh"]

    @property
    def gain(self) -> float:
        if self.approximate == "tanh":
            return mean_square(partial(F.gelu, approximate="tanh")) ** -0.5
        return 1.0 / math.sqrt(1.0 / 3.0 + 1.0 / (2.0 * math.pi * math.sqrt(3.0)))

    def __call__(self) -> nn.Module:
        return nn.GELU(self.approximate)

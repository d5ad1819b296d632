"""The Gaussian error linear unit."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class GELU:
    """f(x) = x Phi(x), with Phi the distribution function of N(0, 1); exact, not the paper's approximation by tanh.

    It is smooth and not monotone: its minimum is -0.17, at x = -0.75.
    With z ~ N(0, 1) E[f(z)^2] = 1/3 + 1 / (2 pi sqrt(3)), hence the gain 1.53, one over its root.

    Source: Hendrycks and Gimpel 2016.
    """

    gain: ClassVar[float] = 1.0 / math.sqrt(1.0 / 3.0 + 1.0 / (2.0 * math.pi * math.sqrt(3.0)))

    def __call__(self) -> nn.Module:
        return nn.GELU()

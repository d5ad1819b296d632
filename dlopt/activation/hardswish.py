"""The piecewise quadratic form of swish."""

import math
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Hardswish:
    """f(x) = x min(max(x + 3, 0), 6) / 6: silu with a piecewise linear sigmoid, which costs no exponential.

    It is 0 below -3, x above 3, and (x^2 + 3 x) / 6 between them. Its minimum is -3/8, at x = -3/2. Unlike silu it has
    no gradient below -3. With z ~ N(0, 1), and phi and Phi the density and the distribution function of z,

        E[f(z)^2] = Phi(-3) + 3 phi(3) + 2 (A_4 + 9 A_2) / 36,   A_2 = Phi(3) - 1/2 - 3 phi(3),
        A_4 = 3 (Phi(3) - 1/2) - 36 phi(3),

    and the gain is one over its root, 1.7367.

    Source: Howard et al. 2019, Searching for MobileNetV3, section 5.2.
    """

    @property
    def gain(self) -> float:
        half = 0.5 * math.erf(3.0 / math.sqrt(2.0))  # Phi(3) - 1/2
        density = math.exp(-4.5) / math.sqrt(2.0 * math.pi)
        above = 0.5 - half + 3.0 * density
        between = (3.0 * half - 36.0 * density + 9.0 * (half - 3.0 * density)) / 18.0
        return 1.0 / math.sqrt(above + between)

    def __call__(self) -> nn.Module:
        return nn.Hardswish()

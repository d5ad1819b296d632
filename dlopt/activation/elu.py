"""The exponential linear unit."""

import math
from dataclasses import dataclass

from torch import nn

from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class ELU:
    """f(x) = x for x > 0, alpha (e^x - 1) for x <= 0; its derivative is continuous at 0 only for alpha = 1.

    It saturates at -alpha, and its outputs have a mean closer to zero than ReLU's. With z ~ N(0, 1)

        E[f(z)^2] = 1/2 + alpha^2 (e^2 Phi(-2) - 2 sqrt(e) Phi(-1) + 1/2),   Phi the distribution function,

    and the gain is one over its root: 1.25 for alpha = 1.

    alpha   minus the limit at minus infinity; 0 is ReLU

    Source: Clevert, Unterthiner and Hochreiter 2016.
    """

    alpha: NonNegative

    @property
    def gain(self) -> float:
        below = math.exp(2.0) * _phi(-2.0) - 2.0 * math.exp(0.5) * _phi(-1.0) + 0.5
        return 1.0 / math.hypot(math.sqrt(0.5), self.alpha * math.sqrt(below))

    def __call__(self) -> nn.Module:
        return nn.ELU(self.alpha)


def _phi(x: float) -> float:
    """Return the distribution function of N(0, 1)."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))

"""The leaky rectified linear unit."""

import math
from dataclasses import dataclass

from torch import nn

from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class LeakyReLU:
    """f(x) = max(0, x) + alpha min(0, x). A unit that is negative on all data still learns, by gradients times alpha.

    With z ~ N(0, 1) E[f(z)^2] = (1 + alpha^2) / 2, hence the gain sqrt(2 / (1 + alpha^2)).

    alpha   slope below zero: 0 is ReLU, 1 the identity

    Slip: The NYU lecture writes max(alpha x, x), which is equal only for alpha up to 1.

    Source: Maas, Hannun and Ng 2013; the gain: He, Zhang, Ren and Sun 2015, equation 15.
    """

    alpha: NonNegative

    @property
    def gain(self) -> float:
        return math.sqrt(2.0) / math.hypot(1.0, self.alpha)

    def __call__(self) -> nn.Module:
        return nn.LeakyReLU(self.alpha)

"""The parametric rectified linear unit."""

import math
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class PReLU:
    """f(x) = max(0, x) + a min(0, x), where the slope a is learned, one for each layer.

    a is part of w and trained by the same optimizer with the same learning rate. Penalties and weight decay omit it,
    like the scale of a normalization: they would pull it towards zero, which is ReLU. In the network it is the
    parameter `weight` of the activation. With z ~ N(0, 1) E[f(z)^2] = (1 + a^2) / 2, hence the gain
    sqrt(2 / (1 + start^2)) of the initial slope.

    start   the slope a at the start of training; 0 is ReLU, 1 the identity

    Source: He, Zhang, Ren and Sun 2015, section 2.1, the channel-shared variant; the gain: equation 15.
    """

    start: float

    @property
    def gain(self) -> float:
        return math.sqrt(2.0) / math.hypot(1.0, self.start)

    def __call__(self) -> nn.Module:
        return nn.PReLU(init=self.start)

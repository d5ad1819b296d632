"""The scaled exponential linear unit."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class SELU:
    """f(x) = lambda x for x > 0, lambda alpha (e^x - 1) for x <= 0; alpha = 1.6733 and lambda = 1.0507 are fixed.

    They are the solution of E[f(z)] = 0 and E[f(z)^2] = 1 for z ~ N(0, 1): a deep stack of such layers converges to
    mean zero and variance one without normalization. Hence the gain 1: use init=lecun_normal (variance 1 / fan_in),
    as in the proof; init=he doubles the variance. torch.nn.init's gain of 3/4 gives up this property.
    It saturates at -lambda alpha = -1.758.

    Source: Klambauer, Unterthiner, Mayr and Hochreiter 2017, equations 2 and 14.
    """

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return nn.SELU()

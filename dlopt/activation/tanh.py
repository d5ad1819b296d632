"""The hyperbolic tangent."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Tanh:
    """f(x) = (1 - e^-2x) / (1 + e^-2x), in (-1, 1), zero-centred; its derivative is at most 1, at x = 0.

    The gain is 1, which keeps a deep stack level; torch.nn.init's 5/3 makes it saturate.

    Slip: The Georgia Tech lecture writes tanh(x) = (1 - e^-x) / (1 + e^-x), which is tanh(x/2); right is
    (1 - e^-2x) / (1 + e^-2x).

    Source: LeCun, Bottou, Orr and Mueller 1998, section 4.4.
    """

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return nn.Tanh()

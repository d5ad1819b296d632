"""The rectified linear unit."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class ReLU:
    """f(x) = max(0, x). It halves the mean square of a symmetric input, hence the gain sqrt(2).

    A unit is dead if it is zero on all data: no gradient reaches its weights.

    Slip: The NYU lecture calls a ReLU completely dead whenever its input is below zero; a dead unit is zero on all
    data, not on one example.

    Source: Nair and Hinton 2010.
    """

    gain: ClassVar[float] = math.sqrt(2.0)

    def __call__(self) -> nn.Module:
        return nn.ReLU()

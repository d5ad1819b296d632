"""The logistic sigmoid."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Sigmoid:
    """f(x) = 1 / (1 + e^-x), in (0, 1); its derivative is at most 1/4, at x = 0.

    Its outputs are all positive, so all gradients into the weights of one unit share a sign for one example.

    Slip: The NYU lecture says that saturation kills the neuron; in fact its gradient is small, never zero, and only
    for the examples on which it saturates.

    Source: Goodfellow, Bengio and Courville 2016, section 6.3.2.
    """

    gain: ClassVar[float] = 1.0

    def __call__(self) -> nn.Module:
        return nn.Sigmoid()

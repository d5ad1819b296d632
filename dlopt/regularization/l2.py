"""The L2 penalty."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.parts import Regularization
from dlopt.ranges import NonNegative
from dlopt.weights import Layout


@dataclass(frozen=True)
class L2(Regularization):
    """Adds (strength / 2) sum of w_i^2 over weights to the objective; its gradient is strength w_i.

    Biases and normalization parameters are left out. On a quadratic loss it shrinks the direction of each eigenvalue
    l by l / (l + strength). (Some lectures write strength |w|^2, twice this, or divide by the batch size.)

    strength   lambda

    Source: Goodfellow, Bengio and Courville 2016, equation 7.1.
    """

    strength: NonNegative

    def penalty(self, w: Tensor, layout: Layout) -> Tensor:
        return 0.5 * self.strength * ((layout.weights(w) * w) @ w)

"""The L2 penalty."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class L2(Regularization):
    """L2 penalty on weights: adds (strength / 2) sum w_i^2 to the objective, and strength w_i to the gradient.

    Biases and normalization parameters are left out. On a quadratic loss it shrinks the direction of each eigenvalue
    l by l / (l + strength). Some lectures write lambda |w|^2: their lambda is half of this strength.

    strength   lambda

    Slip: the CMU lecture divides the sum by the number of weights, so the same strength means less in a larger network.
    It also adds the penalty itself to the gradient; right is the gradient of the penalty.

    Slip: the KTH lecture writes the norm |w|, not squared; its gradient would have the same size for small and large
    weights. Its statement about eigenvalues belongs to the square.

    Source: Goodfellow, Bengio and Courville 2016, equation 7.1.
    """

    decays: ClassVar[bool] = True

    strength: NonNegative

    def penalty(self, w: Tensor, layout: Layout) -> Tensor:
        return 0.5 * self.strength * ((layout.weight_mask(w) * w) @ w)

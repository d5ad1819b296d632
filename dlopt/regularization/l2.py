"""The L2 penalty."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class L2(Regularization):
    """Adds (strength / 2) sum of w_i^2 over weights to the objective; its gradient is strength w_i.

    Biases and normalization parameters are left out. On a quadratic loss it shrinks the direction of each eigenvalue
    l by l / (l + strength). Some lectures write lambda |w|^2: their lambda is half of this strength.

    strength   lambda

    Slip: the CMU lecture divides the sum by the number of weights; then the same strength means less in a larger net.
    It also adds the penalty itself to the gradient; right is the penalty's gradient.

    Slip: the KTH lecture writes the norm |w|, not squared; its gradient would have the same size for small weights as
    for large ones. What it then says of eigenvalues belongs to the square.

    Source: Goodfellow, Bengio and Courville 2016, equation 7.1.
    """

    strength: NonNegative

    def penalty(self, w: Tensor, layout: Layout) -> Tensor:
        return 0.5 * self.strength * ((layout.weight_mask(w) * w) @ w)

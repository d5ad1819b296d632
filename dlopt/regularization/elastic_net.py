"""The elastic net penalty."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class ElasticNet(Regularization):
    """Elastic net: the sum of an L1 and an L2 penalty on weights, l1 sum |w_i| + (l2 / 2) sum w_i^2.

        proximal=false   g_i <- g_i + l1 sign(w_i) + l2 w_i,  sign(0) = 0
        proximal=true    w_i <- sign(w_i) max(0, |w_i| - lr l1) / (1 + lr l2)  after the optimizer's step

    It combines regularization=[l1,l2]: zeros from the first, similar weights for correlated inputs from the second.
    Biases and normalization parameters are left out. With plain gradient descent (sgd) both forms end at the minimum of
    loss and penalty: on a diagonal quadratic with minimum m and curvatures h it is
    w_i = sign(m_i) max(0, h_i |m_i| - l1) / (h_i + l2). Other optimizers rescale the gradient but not the shrinkage, so
    with proximal=true they end elsewhere, as with l1.

    l1         lambda_1
    l2         lambda_2; without the half, as in the paper, it is half of this value
    proximal   shrink after each step instead of adding a term to the objective: this makes exact zeros

    Slip: the CMU lecture divides both sums by the number of weights, so the same strength means less in a larger
    network. It also leaves out the half, as other lectures do that write lambda |w|^2: their lambda is half of this l2.

    Source: Zou and Hastie 2005, equation 3 (naive), without their factor 1 + lambda_2 on the result; the shrinkage:
    Parikh and Boyd 2014, section 6.5.3.
    """

    decays: ClassVar[bool] = True

    l1: NonNegative
    l2: NonNegative
    proximal: bool

    @property
    def needs_lr(self) -> bool:
        return self.proximal

    def penalty(self, w: Tensor, layout: Layout) -> Tensor | None:
        if self.proximal:
            return None
        weights = layout.weight_mask(w)
        return self.l1 * (w.abs() @ weights) + 0.5 * self.l2 * ((weights * w) @ w)

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        if not self.proximal:
            return w
        rates = lr * layout.weight_mask(w)
        shrunk = w.sign() * (w.abs() - rates * self.l1).clamp(min=0.0) / (1.0 + rates * self.l2)
        return torch.where(rates > 0, shrunk, w)

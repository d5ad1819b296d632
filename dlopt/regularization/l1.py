"""The L1 penalty."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class L1(Regularization):
    """L1 penalty on weights, strength sum |w_i|, or soft thresholding after each step.

        proximal=false   g_i <- g_i + strength sign(w_i),  sign(0) = 0: a subgradient
        proximal=true    w_i <- sign(w_i) max(0, |w_i| - lr strength)  after the optimizer's step

    Biases and normalization parameters are left out. Subgradient steps cross zero and never stay there; soft
    thresholding makes exact zeros. With plain gradient descent (sgd) both end at the minimum of loss and penalty: on a
    diagonal quadratic with minimum m and curvatures h it is w_i = sign(m_i) max(0, |m_i| - strength / h_i). Other
    optimizers rescale the gradient but not the threshold: heavy-ball momentum b ends at the minimum for
    (1 - b) strength.

    strength   lambda
    proximal   shrink after each step instead of adding a term to the objective

    Slip: the CMU lecture says that it penalizes the number of non-zero parameters; that is L0, of which L1 is the
    convex surrogate.

    Slip: the KTH lecture leaves large weights unchanged; they too shrink by strength / h_i.

    Source: Tibshirani 1996; Goodfellow, Bengio and Courville 2016, equations 7.18 to 7.23; the soft threshold:
    Daubechies, Defrise and De Mol 2004.
    """

    decays: ClassVar[bool] = True

    strength: NonNegative
    proximal: bool

    @property
    def needs_lr(self) -> bool:
        return self.proximal

    def penalty(self, w: Tensor, layout: Layout) -> Tensor | None:
        return None if self.proximal else self.strength * (w.abs() @ layout.weight_mask(w))

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        if not self.proximal:
            return w
        threshold = lr * self.strength * layout.weight_mask(w)
        return axpy_(w, -1.0, w.clamp(-threshold, threshold))

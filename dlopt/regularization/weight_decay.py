"""Decoupled weight decay."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class WeightDecay(Regularization):
    """w_new <- w_new - lr strength w_old on weights, after the rule's own step from w_old.

    Biases and normalization parameters are left out. The objective and its gradient stay as they are: under plain
    gradient descent that is regularization=l2, under adaptive rules it is not, since there the penalty's gradient
    is divided by the gradient's scale and weights with large gradients hardly decay. Adam with it is AdamW. lr is the
    scheduled rate, as in torch (the paper scales the decay by the schedule alone).

    strength   share of a weight that decays, per step and unit of lr

    Slip: the KTH lecture calls a penalty on the norm |w| weight decay; that of the square decays weights by a share.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    strength: NonNegative

    @property
    def needs_lr(self) -> bool:
        return True

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        share, mask = lr * self.strength, layout.weight_mask(w)
        if isinstance(share, Tensor):
            return axpy_(w, -share, before * mask)
        return w.addcmul_(before, mask, value=-share)  # one pass over memory, for a single run

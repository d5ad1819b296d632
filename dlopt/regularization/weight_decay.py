"""Decoupled weight decay."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcmul_scaled_
from dlopt.parts import Regularization
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class WeightDecay(Regularization):
    """Decoupled weight decay: w_new <- w_new - lr strength w_old on weights, after the optimizer's step from w_old.

    Biases and normalization parameters are left out. The objective and its gradient do not change. Under plain gradient
    descent this equals regularization=l2. Under adaptive optimizers it does not: they divide the gradient of a penalty
    by the scale of the gradient, so weights with large gradients hardly decay. Adam with weight decay is AdamW. lr is
    the scheduled learning rate, as in torch; the paper scales the decay by the schedule only. If an optimizer has
    several learning rates, as muon, each weight decays at its own.

    strength   decay per step, as a multiple of lr

    Slip: the KTH lecture calls a penalty on the norm |w| weight decay; only the square decays weights in proportion.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    decays: ClassVar[bool] = True

    strength: NonNegative

    @property
    def needs_lr(self) -> bool:
        return True

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        return addcmul_scaled_(w, -(lr * self.strength), before, layout.weight_mask(w))

"""Adam with decoupled weight decay."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available
from dlopt.optimizer._adam import adam_step_, fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class AdamWState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class AdamW(Optimizer):
    """m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    w <- w - lr (m^ / (sqrt(v^) + eps) + weight_decay w)  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t).

    Weights decay by a share of their own size, whatever the size of their gradients. The penalty (regularization=l2)
    would be part of g: divided by sqrt(v^) it hardly touches weights whose gradients are large. The decay follows the
    scheduled rate, as in torch; the paper scales it by the schedule alone, so that its lambda is lr weight_decay here.

    Only weights decay: biases and the parameters of normalizations are left out, to which torch.optim.AdamW applies its
    weight_decay as well unless they are put into a group of their own. Adam with regularization=weight_decay is the
    same rule; that part serves any other rule too.

    lr             learning rate
    beta1          decay of the average of gradients
    beta2          decay of the average of their squares
    eps            keeps the division finite where gradients vanish
    weight_decay   share of a weight that decays, per step and unit of lr

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdamWState:
        return AdamWState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: AdamWState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        update = self.update_fused if fused_available(w) else self.update_textbook
        return Step(*update(self.decay_weights(w, objective.layout), state, g), loss, g)

    def decay_weights(self, w: Tensor, layout: Layout) -> Tensor:
        """w <- (1 - lr weight_decay) w on weights, in place."""
        share, mask = self.lr * self.weight_decay, layout.weight_mask(w)
        if isinstance(share, Tensor):
            return axpy_(w, -share, w * mask)
        return w.addcmul_(w, mask, value=-share)  # one pass over memory, for a single run

    def update_textbook(self, w: Tensor, state: AdamWState, g: Tensor) -> tuple[Tensor, AdamWState]:
        """Apply Adam's step to the decayed w in place, for any leading dimensions."""
        m, v, t = state
        adam_step_(w, g, m, v, t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return w, state

    def update_fused(self, w: Tensor, state: AdamWState, g: Tensor) -> tuple[Tensor, AdamWState]:
        """Apply the same step in one pass, for a single run. The kernel's own decay would include biases."""
        m, v, t = state
        fused_adam_step_([w], [g], [m], [v], [t.add_(1)], lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return w, state

"""Adam."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import fused_available
from dlopt.optimizer._adam import adam_step_, fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class AdamState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class Adam(Optimizer):
    """m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    w <- w - lr m^ / (sqrt(v^) + eps)  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t),  t = 1, 2, ...

    The corrections undo the pull of m and v towards their start at zero; without them the first steps are too
    large by up to 6.6 times with the usual betas. eps stands outside the root, as in the paper and in torch.

    Slip: the Georgia Tech lecture defines the corrected moments and then steps by v and G without them, the NYU lecture
    leaves the corrections out, and one of the CMU lecture's slides repeats RMSProp's line. The KTH lecture corrects by
    1 - beta^k with k = 0 at the first step, which divides by zero: t counts from 1.

    lr      learning rate: a bound on each weight's step, nearly
    beta1   decay of the average of gradients
    beta2   decay of the average of their squares
    eps     keeps the division finite where gradients vanish

    Source: Kingma and Ba 2015, algorithm 1.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive

    def init(self, w: Tensor, layout: Layout) -> AdamState:
        return AdamState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: AdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        update = self.update_fused if fused_available(w) else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: AdamState, g: Tensor) -> tuple[Tensor, AdamState]:
        """Apply the formula above in place, for any leading dimensions."""
        m, v, t = state
        adam_step_(w, g, m, v, t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return w, state

    def update_fused(self, w: Tensor, state: AdamState, g: Tensor) -> tuple[Tensor, AdamState]:
        """Apply the same step in one pass over memory, for a single run."""
        m, v, t = state
        fused_adam_step_([w], [g], [m], [v], [t.add_(1)], lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return w, state

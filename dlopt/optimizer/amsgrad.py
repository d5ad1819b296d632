"""AMSGrad: Adam whose rates never rise."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks, fused_available
from dlopt.optimizer._adam import fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class AMSGradState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    largest: Tensor  # (..., P), the largest v so far
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class AMSGrad(Optimizer):
    """m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  u <- max(u, v),
    w <- w - lr m^ / (sqrt(u^) + eps)  with  m^ = m / (1 - beta1^t),  u^ = u / (1 - beta2^t),  t = 1, 2, ...

    Adam forgets a large gradient after 1 / (1 - beta2) steps, and where such gradients are rare but tell the way it can
    go the wrong way for ever, on a convex problem too. The largest average keeps them in mind.

    This is torch's form. The paper takes the maximum of the uncorrected v too, but then corrects neither m nor u. With
    the correction u^ falls while u stays the same: a rate can rise in the first 1 / (1 - beta2) steps, which in the
    paper none ever does.

    lr      learning rate
    beta1   decay of the average of gradients
    beta2   decay of the average of their squares
    eps     keeps the division finite where gradients vanish

    Source: Reddi, Kale and Kumar 2018, algorithm 2; torch.optim.Adam with amsgrad.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive

    def init(self, w: Tensor, layout: Layout) -> AMSGradState:
        m, v, largest = (torch.zeros_like(w) for _ in range(3))
        return AMSGradState(m, v, largest, torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: AMSGradState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        update = self.update_fused if fused_available(w) else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: AMSGradState, g: Tensor) -> tuple[Tensor, AMSGradState]:
        """The formula as it stands above, in place, for any leading dimensions."""
        t = state.t.add_(1).to(w.dtype)
        for w_, m, v, largest, g_ in cache_chunks(w, state.m, state.v, state.largest, g):
            m_hat = m.lerp_(g_, 1 - self.beta1) / (1 - self.beta1**t)
            torch.maximum(largest, v.lerp_(g_ * g_, 1 - self.beta2), out=largest)
            root = (largest / (1 - self.beta2**t)).sqrt_().add_(self.eps)
            addcdiv_scaled_(w_, -self.lr, m_hat, root)
        return w, state

    def update_fused(self, w: Tensor, state: AMSGradState, g: Tensor) -> tuple[Tensor, AMSGradState]:
        """The same in torch's fused kernel: one pass over memory, for a single run."""
        m, v, largest, t = state
        fused_adam_step_(
            [w], [g], [m], [v], [t.add_(1)], lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
            largest=[largest],
        )  # fmt: skip
        return w, state

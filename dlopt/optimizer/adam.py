"""Adam."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks, fused_available
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
        """The formula as it stands above, in place, for any leading dimensions."""
        t = state.t.add_(1).to(w.dtype)
        for w_, m, v, g_ in cache_chunks(w, state.m, state.v, g):
            m_hat = m.lerp_(g_, 1 - self.beta1) / (1 - self.beta1**t)
            v_hat = v.lerp_(g_ * g_, 1 - self.beta2) / (1 - self.beta2**t)
            addcdiv_scaled_(w_, -self.lr, m_hat, v_hat.sqrt_().add_(self.eps))
        return w, state

    def update_fused(self, w: Tensor, state: AdamState, g: Tensor) -> tuple[Tensor, AdamState]:
        """The same in torch's fused kernel: one pass over memory, for a single run.

        Called as torch.optim does; its public functions take 6 microseconds more, 2% of a step of a small net.
        """
        m, v, t = state
        torch._fused_adam_(
            [w], [g], [m], [v], [], [t.add_(1)], lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
            weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip
        return w, state

"""AMSGrad."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.optimizer._adam import DiagonalAdam, adam_step_
from dlopt.parts import ObjectiveOracle, Step


class AMSGradState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    largest: Tensor  # (..., P), maximum of v so far
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class AMSGrad(DiagonalAdam):
    """Adam that divides by the running maximum of the second moment.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  u <- max(u, v)
        w <- w - lr m^ / (sqrt(u^) + eps)  with  m^ = m / (1 - beta1^t),  u^ = u / (1 - beta2^t),  t = 1, 2, ...

    Adam forgets a large gradient after about 1 / (1 - beta2) steps. If large gradients are rare but informative, Adam
    can diverge even on a convex problem. The maximum prevents this.

    This is the form of torch. The paper also takes the maximum of the uncorrected v, but corrects neither m nor u, so
    its effective learning rates never grow. Here they can grow in the first 1 / (1 - beta2) steps, while u^ decreases.

    Source: Reddi, Kale and Kumar 2018, algorithm 2; torch.optim.Adam with amsgrad=True.
    """

    def init(self, w: Tensor, layout: Layout) -> AMSGradState:
        m, v, largest = (torch.zeros_like(w) for _ in range(3))
        return AMSGradState(m, v, largest, torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: AMSGradState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, u, t = state
        adam_step_([w], [g], [m], [v], t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps, u=[u])
        return Step(w, state, loss, g)

    def preconditioner(self, state: AMSGradState) -> Tensor:
        return self.divisor(state.largest, state.t)

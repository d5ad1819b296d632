"""MARS: AdamW with variance reduction."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import clip_factor
from dlopt.optimizer._adam import AdamHyperparameters, adam_step_
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative


class MARSState(NamedTuple):
    m: Tensor  # (..., P), average of c
    v: Tensor  # (..., P), average of c^2
    last: Tensor  # (..., P), the gradient of the step before; with exact=true the iterate of the step before
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class MARS(AdamHyperparameters):
    """MARS-AdamW: Adam on gradients that are corrected by their change since the step before.

        c = g + gamma beta1 / (1 - beta1) (g - g'),  c <- c / max(1, |c|)
        m <- beta1 m + (1 - beta1) c,  v <- beta2 v + (1 - beta2) c^2
        w <- w - lr m^ / (sqrt(v^) + eps)  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)

    With gamma = 1 and without the limit of |c|, m is that of STORM: an average of old gradients, each moved to the
    present w, so its noise falls while it stays up to date. gamma = 0 is Adam with its gradients clipped to the norm 1.

        exact=true    g' is the gradient of this step's mini-batch at the w of the step before: two gradients per step
        exact=false   g' is the gradient of the step before, of its own mini-batch (MARS-approx), at no cost

    In the first step g' = g. The norm is over all weights. regularization=weight_decay is the decoupled decay of the
    source.

    gamma   strength of the correction
    exact   evaluate the mini-batch at the w of the step before

    Departures: the authors' code divides each parameter by its own norm. It takes AdamW for biases and normalization
    parameters, with an lr of its own, and g' = 0 in the first step.

    Source: Yuan, Liu, Wu, Zhou and Gu 2024, algorithm 2 (MARS-AdamW); defaults of the authors' code.
    """

    gamma: NonNegative
    exact: bool

    def init(self, w: Tensor, layout: Layout) -> MARSState:
        last = w.clone() if self.exact else torch.zeros_like(w)
        return MARSState(torch.zeros_like(w), torch.zeros_like(w), last, torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: MARSState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, last, t = state
        extrapolation = 1 + self.gamma * self.beta1 / (1 - self.beta1) * (t > 0).to(w.dtype)
        if self.exact:
            c = torch.lerp(objective.gradient(last)[1], g, extrapolation)
            last.copy_(w)
        else:
            c = last.lerp_(g, extrapolation)
        c.mul_(clip_factor(c, 1.0))
        adam_step_([w], [c], [m], [v], t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        if not self.exact:
            last.copy_(g)
        return Step(w, state, loss, g)

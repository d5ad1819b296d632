"""Prodigy: Adam that estimates its learning rate."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import cache_chunks, fused_available, is_positive
from dlopt.optimizer._adam import AdamHyperparameters, fused_adam_step_
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative, Positive


class ProdigyState(NamedTuple):
    m: Tensor  # (..., P), the average of d g over the present d
    v: Tensor  # (..., P), the average of d^2 g^2 over the square of the present d
    s: Tensor  # (..., P), average of lr d^2 g
    start: Tensor  # (..., P), w_0
    r: Tensor  # (..., 1), average of lr d^2 g'(w_0 - w)
    d: Tensor  # (..., 1), the estimate


@dataclass(frozen=True)
class Prodigy(AdamHyperparameters):
    """Prodigy: Adam with a step size d that grows to an estimate of the distance from the initial weights to a minimum.

        m <- beta1 m + (1 - beta1) d g,  v <- beta2 v + (1 - beta2) d^2 g^2
        r <- sqrt(beta2) r + (1 - sqrt(beta2)) lr d^2 g'(w_0 - w)
        s <- sqrt(beta2) s + (1 - sqrt(beta2)) lr d^2 g
        w <- w - lr d (m / (sqrt(v) + d eps) + weight_decay w)
        d <- max(d, d_coef r / |s|_1),  for the next step

    All of a step uses the d before it. For a convex f, g'(w_0 - w) / |g|_1 is a lower bound of the distance that w has
    still to go, in the largest coordinate. There are no bias corrections. The state holds m / d and v / d^2, which do
    not underflow.

    lr is a factor of d, to be left at 1 and lowered by a schedule: the source takes schedule=cosine. Rows hold
    optimizer/d, the mean estimate. d never falls, so training does not recover from a d that is too large.

    lr             factor of the estimated step size
    beta1          decay of the average of gradients
    beta2          decay of the average of squared gradients
    eps            keeps the division finite where gradients vanish
    d0             initial estimate, to be smaller than the true one; not below the rounding of w
    d_coef         factor of the estimate; of the authors' code, 1 in the source
    weight_decay   decoupled decay of weights only, per step and as a multiple of lr d

    regularization=weight_decay is refused: it would take lr for the step size. The authors' code has the new d next to
    eps, decays all parameters, and takes no step while s = 0.

    Source: Mishchenko and Defazio 2024, algorithm 4.
    """

    estimates_lr = True
    scales_with_lr = False  # one d for all weights: the code of the authors refuses groups with other rates, too

    d0: Positive
    d_coef: Positive
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> ProdigyState:
        m, v, s = (torch.zeros_like(w) for _ in range(3))
        r = w.new_zeros(*w.shape[:-1], 1)
        return ProdigyState(m, v, s, w.clone(), r, torch.zeros_like(r) + self.d0)

    def step(self, w: Tensor, state: ProdigyState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, s, start, r, d = state
        root = self.beta2**0.5
        part = (1 - self.beta2) / (1 + root)  # 1 - root, without its rounding
        size = self.lr * d
        products, norms = [], []
        for w_, g_, s_, start_ in cache_chunks(w, g, s, start):
            x = start_ - w_
            products.append(torch.linalg.vecdot(x, g_).unsqueeze(-1))
            s_.lerp_(torch.mul(g_, size * d, out=x), part)
            norms.append(torch.abs(s_, out=x).sum(-1, keepdim=True))  # vector_norm takes five times as long
        if is_positive(self.weight_decay):
            w.addcmul_(objective.layout.weight_mask(w) * w, -size * self.weight_decay)
        self._take_adam_step_(w, g, m, v, size)
        r.lerp_(torch.cat(products, -1).sum(-1, keepdim=True) * (size * d), part)
        norm = torch.cat(norms, -1).sum(-1, keepdim=True)
        new = torch.maximum(d, torch.where(norm > 0, self.d_coef * r / norm, 0.0))
        m.mul_(d / new)
        v.mul_((d / new).square())
        return Step(w, state._replace(d=new), loss, g, info={"d": new.squeeze(-1)})

    def _take_adam_step_(self, w: Tensor, g: Tensor, m: Tensor, v: Tensor, lr: Tensor) -> None:
        """Take a step of Adam without bias corrections, in place."""
        if fused_available(w):
            t = torch.full((), math.inf, device=w.device)
            lr = lr.squeeze(-1)
            fused_adam_step_([w], [g], [m], [v], [t], lr=lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
            return
        for w_, g_, m_, v_ in cache_chunks(w, g, m, v):
            m_.lerp_(g_, 1 - self.beta1)
            x = g_.square()
            divisor = torch.sqrt(v_.lerp_(x, 1 - self.beta2), out=x).add_(self.eps)
            w_.addcmul_(torch.div(m_, divisor, out=x), -lr)

"""ADOPT."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.optimizer._adam import AdamHyperparameters
from dlopt.parts import ObjectiveOracle, Step


class ADOPTState(NamedTuple):
    m: Tensor  # (..., P), average of normalized gradients
    v: Tensor  # (..., P), average of g^2 until the step before
    t: int  # gradients seen, on the host, which has to know the first one


@dataclass(frozen=True)
class ADOPT(AdamHyperparameters):
    """ADOPT: Adam that divides each gradient by the averages of the steps before, and converges with any beta2.

        n = g / max(sqrt(v), eps), each entry clipped to at most t^(1/4) in absolute value
        m <- beta1 m + (1 - beta1) n,  w <- w - lr m,  then  v <- beta2 v + (1 - beta2) g^2

    In Adam, v contains the present gradient. So a rare large gradient shortens its own step, and Adam may not converge
    if beta2 is small for the problem. Here v is independent of g, and m averages gradients that are normalized already.
    The clipping limits the steps after a v that is still too small.

    The first gradient only sets v = g^2: the first step does not move w. t counts from the second step.

    lr      learning rate: the step of each weight is about lr
    beta1   decay of the average of normalized gradients
    beta2   decay of the average of squared gradients
    eps     minimum of the divisor

    The later version of the authors' code has no clipping. Its divisor is at least max(eps, 0.9^(t - 1)), and its m
    starts at the first n.

    Source: Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa and Matsuo 2024, algorithm 2;
    defaults as recommended there.
    """

    def init(self, w: Tensor, layout: Layout) -> ADOPTState:
        return ADOPTState(torch.zeros_like(w), torch.zeros_like(w), 0)

    def step(self, w: Tensor, state: ADOPTState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, t = state
        after = state._replace(t=t + 1)
        if t == 0:
            torch.mul(g, g, out=v)
            return Step(w, after, loss, g)
        limit = t**0.25
        for w_, g_, m_, v_ in cache_chunks(w, g, m, v):
            n = v_.sqrt().clamp_(min=self.eps)
            torch.div(g_, n, out=n).clamp_(-limit, limit)
            axpy_(w_, -self.lr, m_.lerp_(n, 1 - self.beta1))
            v_.lerp_(torch.mul(g_, g_, out=n), 1 - self.beta2)
        return Step(w, after, loss, g)

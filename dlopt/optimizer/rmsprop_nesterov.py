"""RMSProp with Nesterov's momentum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class RMSPropNesterovState(NamedTuple):
    square: Tensor  # (..., P), average of g^2
    v: Tensor  # (..., P), velocity


@dataclass(frozen=True)
class RMSPropNesterov(Optimizer):
    """RMSProp with Nesterov momentum.

        E <- decay E + (1 - decay) g^2,  d = g / (sqrt(E) + eps),  v <- momentum v + d,  w <- w - lr (d + momentum v)

    As in optimizer=nesterov, w is the look-ahead point x - lr momentum v of the textbook's form

        g = g(x - lr momentum v),  v <- momentum v + g / (sqrt(E) + eps),  x <- x - lr v

    while lr and momentum are constant, so gradient, loss and logged weights belong to one point. The textbook's v is
    -lr v here. It divides by sqrt(E) only; eps is RMSProp's.

    lr         learning rate
    decay      decay of the average of squared gradients
    eps        keeps the division finite where gradients vanish
    momentum   fraction of the velocity that a step keeps

    Source: Goodfellow, Bengio and Courville 2016, algorithm 8.6.
    """

    lr: Positive
    decay: Fraction
    eps: Positive
    momentum: Fraction

    def init(self, w: Tensor, layout: Layout) -> RMSPropNesterovState:
        return RMSPropNesterovState(torch.zeros_like(w), torch.zeros_like(w))

    def step(self, w: Tensor, state: RMSPropNesterovState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for w_, square, v, g_ in cache_chunks(w, *state, g):
            root = square.lerp_(g_ * g_, 1 - self.decay).sqrt().add_(self.eps)
            d = torch.div(g_, root, out=root)
            v.mul_(self.momentum).add_(d)
            axpy_(axpy_(w_, -self.lr, d), -self.lr * self.momentum, v)
        return Step(w, state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 * (1 + self.momentum) / ((1 + 2 * self.momentum) * self.lr)

    def preconditioner(self, state: RMSPropNesterovState) -> Tensor:
        return state.square.sqrt().add_(self.eps)

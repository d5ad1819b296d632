"""Lion: evolved sign momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class LionState(NamedTuple):
    m: Tensor  # (..., P)


@dataclass(frozen=True)
class Lion(Optimizer):
    """Lion: moves each weight by lr in the direction of the sign of an average of gradients.

        w <- w - lr sign(beta1 m + (1 - beta1) g),  then  m <- beta2 m + (1 - beta2) g

    With beta1 < beta2 the present gradient has more weight in the sign than in the stored average. Lion stores one
    vector per weight, Adam two. Its steps are longer than Adam's at the same learning rate: the paper uses a rate three
    to ten times smaller, and a weight decay larger by as much. regularization=weight_decay is that decoupled decay.

    lr      learning rate: the size of every step of every weight
    beta1   weight of m in the average whose sign is taken
    beta2   decay of the stored average m

    Source: Chen et al. 2023, Symbolic discovery of optimization algorithms, algorithm 2, without its decay.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction

    def init(self, w: Tensor, layout: Layout) -> LionState:
        return LionState(torch.zeros_like(w))

    def step(self, w: Tensor, state: LionState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for w_, m, g_ in cache_chunks(w, state.m, g):
            axpy_(w_, -self.lr, m.lerp(g_, 1 - self.beta1).sign_())
            m.lerp_(g_, 1 - self.beta2)
        return Step(w, state, loss, g)

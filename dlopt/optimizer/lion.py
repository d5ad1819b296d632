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
    """w <- w - lr sign(beta1 m + (1 - beta1) g),  then  m <- beta2 m + (1 - beta2) g.

    Each weight moves by lr at each step, up or down, whatever the size of its gradient: the sign is of an average in
    which the present gradient weighs more, 1 - beta1, than in the one that is kept, 1 - beta2. It keeps one vector,
    Adam two. A step is longer than Adam's at the same rate: the paper takes a rate three to ten times smaller, and a
    decay as much larger. That decay, decoupled as AdamW's, is regularization=weight_decay.

    lr      learning rate: the size of every step of every weight
    beta1   of the average whose sign is taken: the share of m
    beta2   decay of the average that is kept

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

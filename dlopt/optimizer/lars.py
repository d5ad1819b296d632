"""LARS: layer-wise adaptive rate scaling."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.optimizer._layerwise import compute_norm, divide_norms
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class LARSState(NamedTuple):
    v: Tensor  # (..., P), velocity, in units of a step


@dataclass(frozen=True)
class LARS(Optimizer):
    """LARS: momentum with a learning rate for each weight tensor W, by the norms of the weights and of the gradient G.

        V <- momentum V + lr q (G + weight_decay W),  W <- W - V,  q = trust |W| / (|G| + weight_decay |W|)

    The gradient's part of each step is at most the fraction lr trust of |W|, so the step does not depend on the scale
    of the gradient or of the loss. Layers with small gradients learn as fast as others. q is 1 if |W| or the divisor is
    0. Biases and normalization parameters take steps of heavy-ball momentum, q = 1, without decay.

    lr             learning rate; it is part of V, so an old gradient keeps the rate of its own step
    momentum       fraction of the velocity that a step keeps
    trust          eta, the trust coefficient
    weight_decay   multiple of W that is added to G

    Departures: the paper scales each layer, biases included, and so cannot move biases of 0. Later implementations
    leave out biases and normalization parameters, as here. TensorFlow's official models have |G + weight_decay W| in
    the divisor. Many implementations put lr outside the velocity: the steps are the same while it is constant.

    Source: You, Gitman and Ginsburg 2017, algorithm 1.
    """

    lr: Positive
    momentum: Fraction
    trust: Positive
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> LARSState:
        return LARSState(torch.zeros_like(w))

    def step(self, w: Tensor, state: LARSState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        for p in objective.layout:
            w_p, g_p, v_p = (x[..., p.slice] for x in (w, g, state.v))
            is_weight = p.kind == "weight"
            rate: float | Tensor = self.lr
            if is_weight:
                norm = compute_norm(w_p)
                rate = rate * divide_norms(self.trust * norm, compute_norm(g_p) + self.weight_decay * norm)
            for w_, g_, v_ in cache_chunks(w_p, g_p, v_p):
                axpy_(v_.mul_(self.momentum), rate, g_)
                if is_weight:
                    axpy_(v_, rate * self.weight_decay, w_)
                w_.sub_(v_)
        return Step(w, state, loss, g)

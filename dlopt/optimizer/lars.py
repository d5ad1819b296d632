"""LARS: layer-wise adaptive rate scaling."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, is_positive
from dlopt.optimizer._layerwise import compute_norms, divide_norms, select
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
        weights, others = objective.layout.partition_weights()
        norms, of_gradients = (compute_norms(select(x, weights), w) for x in (w, g))
        same = all(p.decay == 1.0 for p in weights)
        decay = self.weight_decay * (1.0 if same else torch.cat([w.new_full((1,), p.decay) for p in weights]))
        rates = self.lr * divide_norms(self.trust * norms, of_gradients + decay * norms)
        v = state.v.mul_(self.momentum)
        for v_, g_, rate in zip(select(v, weights), select(g, weights), rates.split(1, dim=-1), strict=True):
            axpy_(v_, rate, g_)
        for v_, g_ in zip(select(v, others), select(g, others), strict=True):
            axpy_(v_, self.lr, g_)
        if is_positive(self.weight_decay):
            decays = (rates * decay).split(1, dim=-1)
            for v_, w_, factor in zip(select(v, weights), select(w, weights), decays, strict=True):
                axpy_(v_, factor, w_)
            for p in others:
                if p.decay != 0.0:
                    axpy_(v[..., p.slice], self.lr * self.weight_decay * p.decay, w[..., p.slice])
        return Step(w.sub_(v), state, loss, g)

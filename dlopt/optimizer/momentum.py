"""Gradient descent with momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.parts import Optimizer, Oracle, Step
from dlopt.ranges import Fraction, Positive
from dlopt.weights import Layout, add_scaled_


class Velocity(NamedTuple):
    v: Tensor  # (..., P)


@dataclass(frozen=True)
class HeavyBall(Optimizer):
    """v <- momentum v + g,  w <- w - lr v.

    v is a geometric sum of gradients, 1 / (1 - momentum) times as large as their average: under a constant gradient
    the speed tends to lr |g| / (1 - momentum). The lectures that put the rate inside v agree only while it is constant.

    lr         learning rate
    momentum   share of the velocity that a step keeps

    Source: Polyak 1964; torch.optim.SGD's form, without dampening.
    """

    lr: Positive
    momentum: Fraction

    def init(self, w: Tensor, layout: Layout) -> Velocity:
        return Velocity(torch.zeros_like(w))

    def step(self, w: Tensor, state: Velocity, objective: Oracle) -> Step:
        loss, g = objective.gradient(w)
        v = state.v.mul_(self.momentum).add_(g)
        return Step(add_scaled_(w, -self.lr, v), Velocity(v), loss, g)

"""Adan: adaptive Nesterov momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks, is_positive
from dlopt.optimizer._adam import bias_correction
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class AdanState(NamedTuple):
    m: Tensor  # (..., P), average of g
    d: Tensor  # (..., P), average of g - g_before
    v: Tensor  # (..., P), average of z^2
    g: Tensor  # (..., P), gradient of the last step
    t: int  # steps taken, on the host, which combines the factors of a step


@dataclass(frozen=True)
class Adan(Optimizer):
    """Adan: Adam with Nesterov momentum from differences of successive gradients.

        m <- beta1 m + (1 - beta1) g,  d <- beta2 d + (1 - beta2) (g - g_before),  z = g + beta2 (g - g_before)
        v <- beta3 v + (1 - beta3) z^2
        w <- (w - lr (m^ + beta2 d^) / (sqrt(v^) + eps)) / (1 + lr weight_decay)
        m^ = m / (1 - beta1^t),  d^ = d / (1 - beta2^t),  v^ = v / (1 - beta3^t),  t = 1, 2, ...

    z is close to the gradient at Nesterov's look-ahead point, where g + beta2 (g - g_before) is the extrapolation from
    the last two gradients. So one gradient per step suffices. The first difference is 0. m and d are averaged by
    themselves.

    The decay is a proximal step: it divides weights, so it is stable for all lr weight_decay. Biases and normalization
    parameters do not decay; the authors' code decays them too, unless they are in a parameter group of their own.

    This is the form of the authors' code. A beta of the paper is 1 - beta here. The paper has eps inside the root, no
    bias corrections, and a restart condition, which the code leaves out.

    lr             learning rate; 5 to 10 times that of Adam is usual
    beta1          decay of the average of gradients
    beta2          decay of the average of differences, and their weight in z and in the step
    beta3          decay of the average of squares of z
    eps            keeps the division finite where gradients vanish
    weight_decay   decay per step, as a multiple of lr

    Source: Xie, Zhou, Li, Lin and Yan 2022, algorithm 1; form and defaults of the authors' code, but lr 0.001 there.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    beta3: Fraction
    eps: Positive
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdanState:
        m, d, v, g = (torch.zeros_like(w) for _ in range(4))
        return AdanState(m, d, v, g, 0)

    def step(self, w: Tensor, state: AdanState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, d, v, g_before, before = state
        t = before + 1
        if t == 1:
            g_before.copy_(g)
        # The steps and their divisor are multiplied by the correction, so that scalars are combined before vectors.
        correction = bias_correction(self.beta3, t) ** 0.5
        of_average = -self.lr * correction / bias_correction(self.beta1, t)
        of_difference = -self.lr * correction * self.beta2 / bias_correction(self.beta2, t)
        decays = is_positive(self.weight_decay)
        mask = objective.layout.weight_mask(w) if decays else w
        for w_, g_, m_, d_, v_, x, mask_ in cache_chunks(w, g, m, d, v, g_before, mask):
            m_.lerp_(g_, 1 - self.beta1)
            d_.lerp_(torch.sub(g_, x, out=x), 1 - self.beta2)  # x holds intermediate results: memory is the bottleneck
            v_.lerp_(x.mul_(self.beta2).add_(g_).square_(), 1 - self.beta3)
            root = torch.sqrt(v_, out=x).add_(self.eps * correction)
            addcdiv_scaled_(w_, of_average, m_, root)
            addcdiv_scaled_(w_, of_difference, d_, root)
            x.copy_(g_)
            if decays:
                w_.div_(1 + mask_ * (self.lr * self.weight_decay))
        return Step(w, state._replace(t=t), loss, g)

    def stability_limit(self, state: AdanState) -> float | Tensor:
        """Return the limit for the factors of the last step, m^ + beta2 d^ = a m + b d, with constant D; b = 0 at
        the first.

        An eigenvector of D^-1 H with the eigenvalue h loses its stability by a root at -1, where

            h = 2 / ((a (1 - beta1) / (1 + beta1) + 2 b (1 - beta2) / (1 + beta2)) lr)

        A weight decay raises the limit by lr weight_decay / 2 of it, which is left out.
        """
        fast = (1 - self.beta1) / (1 + self.beta1) / bias_correction(self.beta1, state.t)
        difference = (1 - self.beta2) / (1 + self.beta2) * self.beta2 / bias_correction(self.beta2, state.t)
        return 2 / ((fast + (2 * difference if state.t > 1 else 0.0)) * self.lr)

    def preconditioner(self, state: AdanState) -> Tensor:
        return (state.v / bias_correction(self.beta3, state.t)).sqrt_().add_(self.eps)

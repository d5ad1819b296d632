"""Adam with Nesterov's momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import cache_chunks
from dlopt.optimizer._adam import DiagonalAdam, bias_correction
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative


class NAdamState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: Tensor  # (), float32, steps taken
    product: Tensor  # (..., 1), mu_1 mu_2 ... mu_t


@dataclass(frozen=True)
class NAdam(DiagonalAdam):
    """NAdam: Adam with Nesterov momentum.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
        n = mu_(t+1) m / (1 - p_(t+1)) + (1 - mu_t) g / (1 - p_t),  w <- w - lr n / (sqrt(v^) + eps)
        v^ = v / (1 - beta2^t),  mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2),  p_t = mu_1 ... mu_t,  t = 1, 2, ...

    n weighs the average of gradients as the next step will, and adds the present gradient: the look-ahead of
    optimizer=nesterov, for Adam. mu grows from beta1 / 2 to beta1, half of the way in 17 / momentum_decay steps.

    This is the form of torch. Its average m decays by the constant beta1; the paper has mu_t there, with which the
    corrections by p are exact from the first step.

    momentum_decay   how fast mu grows to beta1; 0: mu stays beta1 / 2

    Source: Dozat 2016, Incorporating Nesterov momentum into Adam; the form of torch.optim.NAdam.
    """

    momentum_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> NAdamState:
        product = w.new_ones(*w.shape[:-1], 1)
        return NAdamState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device), product)

    def step(self, w: Tensor, state: NAdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        t = state.t.add_(1).to(w.dtype)
        decay, next_decay = self._compute_decay(t), self._compute_decay(t + 1)
        mu, next_mu = self.beta1 * (1 - decay), self.beta1 * (1 - next_decay)
        product = state.product.mul_(mu)
        # Both n and sqrt(v^) + eps are multiplied by the correction, so that scalars are combined before vectors.
        correction = bias_correction(self.beta2, t).sqrt()
        of_average = -self.lr * correction * next_mu / (1 - product * next_mu)
        of_gradient = -self.lr * correction * (1 - self.beta1 + self.beta1 * decay) / (1 - product)
        for w_, m, v, g_ in cache_chunks(w, state.m, state.v, g):
            n = (m.lerp_(g_, 1 - self.beta1) * of_average).addcmul_(g_, of_gradient)
            root = v.lerp_(g_ * g_, 1 - self.beta2).sqrt()
            w_.addcdiv_(n, root.add_(self.eps * correction))
        return Step(w, state, loss, g)

    def stability_limit(self, state: NAdamState) -> Tensor:
        """Return the limit for the factors of the last step, n = a m + b g, with constant D.

        An eigenvector of D^-1 H with the eigenvalue h loses its stability by a root at -1, where

            h = (2 + 2 beta1) / ((a (1 - beta1) + b (1 + beta1)) lr)

        a and b grow and fall with mu and the bias corrections: from 2 / lr in the first steps the limit grows to
        (2 + 2 beta1) / ((1 - beta1) (1 + 2 beta1) lr), 13.6 / lr for beta1 = 0.9.
        """
        t = state.t.to(state.v.dtype)
        mu, next_mu = (self.beta1 * (1 - self._compute_decay(k)) for k in (t, t + 1))
        of_average = next_mu / (1 - state.product * next_mu)
        of_gradient = (1 - mu) / (1 - state.product)
        factor = of_average * (1 - self.beta1) + of_gradient * (1 + self.beta1)
        return (2 + 2 * self.beta1) / (factor * self.lr)

    def preconditioner(self, state: NAdamState) -> Tensor:
        correction = bias_correction(self.beta2, state.t.to(state.v.dtype))
        return (state.v / correction).sqrt_().add_(self.eps)

    def _compute_decay(self, t: Tensor) -> Tensor:
        """Return 1 - mu_t / beta1."""
        return 0.5 * 0.96 ** (t * self.momentum_decay)

"""Adam with Nesterov's momentum."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive


class NAdamState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: Tensor  # (), float32, steps taken
    product: Tensor  # (..., 1), mu_1 mu_2 ... mu_t


@dataclass(frozen=True)
class NAdam(Optimizer):
    """m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2),  p_t = mu_1 mu_2 ... mu_t,
    n = mu_(t+1) m / (1 - p_(t+1)) + (1 - mu_t) g / (1 - p_t),  t = 1, 2, ...
    w <- w - lr n / (sqrt(v^) + eps)  with  v^ = v / (1 - beta2^t).

    Adam's step leads where the average of the gradients up to now points; this one weighs that average as the next step
    will, and adds the present gradient by its own share: Nesterov's look-ahead, as in optimizer=nesterov, for Adam.
    The weight mu climbs from beta1 / 2 to beta1; half of the way is done after 17 / momentum_decay steps.

    This is torch's form: the average m keeps the constant beta1, where the paper has mu_t in its place, so that the
    corrections by p are exact only once mu has arrived there.

    lr               learning rate
    beta1            decay of the average of gradients, and what mu tends to
    beta2            decay of the average of squared gradients
    eps              keeps the division finite where gradients vanish
    momentum_decay   how fast mu tends to beta1; 0: mu stays beta1 / 2

    Source: Dozat 2016, Incorporating Nesterov momentum into Adam; torch.optim.NAdam's form.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    momentum_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> NAdamState:
        product = w.new_ones(*w.shape[:-1], 1)
        return NAdamState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device), product)

    def step(self, w: Tensor, state: NAdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        t = state.t.add_(1).to(w.dtype)
        mu = self._mu(t)
        product = state.product.mul_(mu)
        next_mu = self._mu(t + 1)
        # Numbers are gathered before they meet vectors: both n and sqrt(v^) + eps are taken times correction.
        correction = (1 - self.beta2**t).sqrt()
        of_average = -self.lr * correction * next_mu / (1 - product * next_mu)
        of_gradient = -self.lr * correction * (1 - mu) / (1 - product)
        for w_, m, v, g_ in cache_chunks(w, state.m, state.v, g):
            n = (m.lerp_(g_, 1 - self.beta1) * of_average).addcmul_(g_, of_gradient)
            root = v.lerp_(g_ * g_, 1 - self.beta2).sqrt()
            w_.addcdiv_(n, root.add_(self.eps * correction))
        return Step(w, state, loss, g)

    def _mu(self, t: Tensor) -> Tensor:
        return self.beta1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

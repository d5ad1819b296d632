"""AdEMAMix: AdamW with a mixture of a fast and a slow average of gradients."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, addcmul_scaled_, cache_chunks, is_positive
from dlopt.optimizer._adam import AdamHyperparameters, adam_step_, bias_correction, log
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Count, NonNegative, Range


class AdEMAMixState(NamedTuple):
    m: Tensor  # (..., P), fast average of g
    slow: Tensor  # (..., P), slow average of g
    v: Tensor  # (..., P), average of g^2
    t: int  # steps taken, on the host, which computes the warm-ups


@dataclass(frozen=True)
class AdEMAMix(AdamHyperparameters):
    """AdEMAMix: AdamW with a mixture of a fast and a slow average of gradients.

        m <- beta1 m + (1 - beta1) g,  s <- beta3(t) s + (1 - beta3(t)) g,  v <- beta2 v + (1 - beta2) g^2
        w <- w - lr ((m^ + alpha(t) s) / (sqrt(v^) + eps) + weight_decay w)
        m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t),  t = 1, 2, ...

    The half-life of m is 7 steps, of s 6900 steps with the defaults. Old gradients keep their use for thousands of
    steps, while m reacts to the present ones. s starts at 0 without a bias correction, so its weight grows slowly.

    A large alpha with a large beta3 can diverge early in a run. Two warm-ups prevent it:

        alpha(t) = alpha min(1, t / alpha_warmup)
        1 / log beta3(t) = (1 - c) / log beta1 + c / log beta3,   c = min(1, t / beta3_warmup)

    The second is linear in the half-life, log(1/2) / log beta. Their lengths are numbers of steps, which a run that is
    resumed with more steps keeps.

    beta2          decay of the average of squared gradients
    beta3          decay of the slow average
    alpha          weight of the slow average; the source takes 4 to 10
    alpha_warmup   steps until alpha is reached; null: no warm-up
    beta3_warmup   steps until beta3 is reached; null: no warm-up
    weight_decay   decay per step, as a multiple of lr

    Departures: biases and normalization parameters do not decay. The authors' code decays them too, has alpha = 2 by
    default, and adds 1e-8 to the betas of the warm-up. The source has T_alpha = T_beta3 = the steps of the run.

    Source: Pagliardini, Ablin and Grangier 2024, algorithm 1; the warm-ups: section 3.
    """

    beta3: Annotated[float, Range(gt=0, lt=1)]
    alpha: NonNegative
    alpha_warmup: Count | None
    beta3_warmup: Count | None
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdEMAMixState:
        m, slow, v = (torch.zeros_like(w) for _ in range(3))
        return AdEMAMixState(m, slow, v, 0)

    def step(self, w: Tensor, state: AdEMAMixState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, slow, v, before = state
        t = before + 1
        if is_positive(self.weight_decay):
            addcmul_scaled_(w, -(self.lr * self.weight_decay), w, objective.layout.weight_mask(w))
        count = torch.full((), float(before), device=w.device)
        adam_step_([w], [g], [m], [v], count, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        # The slow part and its divisor are multiplied by the correction, so that scalars are combined before vectors.
        correction = bias_correction(self.beta2, t) ** 0.5
        alpha, weight = self._mix(t)
        for w_, g_, slow_, v_ in cache_chunks(w, g, slow, v):
            root = v_.sqrt().add_(self.eps * correction)
            addcdiv_scaled_(w_, -self.lr * alpha * correction, slow_.lerp_(g_, weight), root)
        return Step(w, AdEMAMixState(m, slow, v, t), loss, g)

    def stability_limit(self, state: AdEMAMixState) -> float | Tensor:
        """Return the limit for the factors of the last step, m^ + alpha(t) s = a m + b s, with constant D.

        An eigenvector of D^-1 H with the eigenvalue h loses its stability by a root at -1, where

            h = 2 / ((a (1 - beta1) / (1 + beta1) + b (1 - beta3(t)) / (1 + beta3(t))) lr)

        A decoupled weight decay lowers the limit by lr weight_decay / 2 of it, which is left out.
        """
        alpha, weight = self._mix(state.t)
        fast = (1 - self.beta1) / (1 + self.beta1) / bias_correction(self.beta1, state.t)
        return 2 / ((fast + alpha * weight / (2 - weight)) * self.lr)

    def preconditioner(self, state: AdEMAMixState) -> Tensor:
        return (state.v / bias_correction(self.beta2, state.t)).sqrt_().add_(self.eps)

    def _mix(self, t: int) -> tuple[Any, Any]:
        """Return alpha(t) and 1 - beta3(t)."""
        alpha = self.alpha * min(1.0, t / (self.alpha_warmup or 1))
        share = min(1.0, t / (self.beta3_warmup or 1))
        # beta3(t) is beta3 to the power of a half-life of beta3 over the present one.
        power = 1 / (share + (1 - share) * log(self.beta3) / log(self.beta1)) if share < 1.0 else 1
        return alpha, bias_correction(self.beta3, power)

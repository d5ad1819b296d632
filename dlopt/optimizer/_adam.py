"""Hyperparameters, state and step that Adam and its relatives share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks, fused_available
from dlopt.parts import Optimizer
from dlopt.ranges import Fraction, Positive


class AdamState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class AdamHyperparameters(Optimizer):
    """Hyperparameters of Adam, and its state before the first step.

    lr      learning rate: nearly a bound on the step of each weight
    beta1   decay of the average of gradients
    beta2   decay of the average of squared gradients
    eps     keeps the division finite where gradients vanish
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive

    def init(self, w: Tensor, layout: Layout) -> Any:
        return AdamState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device))


@dataclass(frozen=True)
class DiagonalAdam(AdamHyperparameters):
    """An optimizer that divides each weight's average of gradients by the root of an average of squares."""

    def stability_limit(self, state: Any) -> float | Tensor:
        """Return the limit for the preconditioner of the next steps: 38 / lr for beta1 = 0.9.

        With a constant D, m is an average of gradients. An eigenvector of D^-1 H with the eigenvalue h has

            m <- beta1 m + (1 - beta1) h x,  x <- x - lr m

        and loses its stability by a root at -1, where h = (2 + 2 beta1) / ((1 - beta1) lr): heavy-ball momentum with
        dampening = beta1. A decoupled weight decay lowers the limit by lr weight_decay / 2 of it, which is left out.

        Source: Cohen et al. 2022, Adaptive gradient methods at the edge of stability.
        """
        return (2 + 2 * self.beta1) / ((1 - self.beta1) * self.lr)

    def preconditioner(self, state: Any) -> Tensor:
        return self.divisor(state.v, state.t)

    def divisor(self, v: Tensor, t: Tensor) -> Tensor:
        """Return (1 - beta1^t) (sqrt(v^) + eps), which divides m in step t."""
        m_correction, v_correction = (bias_correction(beta, t.to(v.dtype)) for beta in (self.beta1, self.beta2))
        return (v / v_correction).sqrt_().add_(self.eps).mul_(m_correction)


def bias_correction(beta: float | Tensor, t: int | Tensor) -> Any:
    """Return 1 - beta^t as -expm1(t log beta): float32 would round beta^t next to 1, with errors of 1e-4 and more."""
    exponent = t * log(beta)
    return -torch.expm1(exponent) if isinstance(exponent, Tensor) else -math.expm1(exponent)


def log(beta: float | Tensor) -> Any:
    """Return the logarithm of a number or of a column, -inf for 0."""
    return beta.log() if isinstance(beta, Tensor) else math.log(beta) if beta > 0.0 else -math.inf


def adam_step_(
    w: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], v: Sequence[Tensor], t: Tensor, *,
    lr: float | Tensor, beta1: float | Tensor, beta2: float | Tensor, eps: float | Tensor, u: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """Take a step of Adam (algorithm 1) in place, on tensors (..., P) that share a step count; with `u`, of AMSGrad.

    A single run on a CPU or on CUDA takes torch's fused kernel, one pass over memory. Lanes take the formula itself.
    """
    t.add_(1)
    if fused_available(w[0]):
        fused_adam_step_(w, g, m, v, [t] * len(w), lr=lr, beta1=beta1, beta2=beta2, eps=eps, u=u)
        return
    m_correction, v_correction = (bias_correction(beta, t.to(w[0].dtype)) for beta in (beta1, beta2))
    for tensors in zip(w, g, m, v, u or v, strict=True):
        for w_, g_, m_, v_, u_ in cache_chunks(*tensors):
            m_hat = m_.lerp_(g_, 1 - beta1) / m_correction
            v_.lerp_(g_ * g_, 1 - beta2)
            if u:
                torch.maximum(u_, v_, out=u_)
            u_hat = u_ / v_correction
            addcdiv_scaled_(w_, -lr, m_hat, u_hat.sqrt_().add_(eps))


def fused_adam_step_(
    w: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], v: Sequence[Tensor], t: Sequence[Tensor], *,
    lr: Any, beta1: Any, beta2: Any, eps: Any, u: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """Take a step in torch's fused kernel, where the step counts `t` include this step.

    If beta1 = 0, m is g itself: pass `g` as `m`, which is then written back unchanged. The kernel is called directly
    because torch's public functions take 6 microseconds more, 2% of a step of a small network.
    """
    torch._fused_adam_(
        list(w), list(g), list(m), list(v), list(u), list(t), lr=lr, beta1=beta1, beta2=beta2, eps=eps,
        weight_decay=0.0, amsgrad=bool(u), maximize=False,
    )  # fmt: skip

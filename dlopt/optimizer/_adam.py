"""The step that Adam, AdamW, AMSGrad, Muon, RMSProp and Schedule-Free share, in its textbook and its fused form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks


def adam_step_(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: Tensor, *,
    lr: float | Tensor, beta1: float | Tensor, beta2: float | Tensor, eps: float | Tensor,
) -> None:  # fmt: skip
    """Adam's step in place, for tensors of any leading dimensions (..., P).

        t <- t + 1,  m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
        w <- w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Source: Kingma and Ba 2015, algorithm 1.
    """
    steps = t.add_(1).to(w.dtype)
    for w_, m_, v_, g_ in cache_chunks(w, m, v, g):
        m_hat = m_.lerp_(g_, 1 - beta1) / (1 - beta1**steps)
        v_hat = v_.lerp_(g_ * g_, 1 - beta2) / (1 - beta2**steps)
        addcdiv_scaled_(w_, -lr, m_hat, v_hat.sqrt_().add_(eps))


def fused_adam_step_(
    w: Sequence[Tensor], g: Sequence[Tensor], m: Sequence[Tensor], v: Sequence[Tensor], t: Sequence[Tensor], *,
    lr: float, beta1: float, beta2: float, eps: float, largest: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """The same step in torch's fused kernel: one pass over memory, for a single run.

    `t` is the step count with this step included, one tensor for each tensor of `w`. If `largest` is given, the step
    divides by the running maximum of v (AMSGrad). With beta1 = 0 the first moment is g itself: pass `g` as `m`, which
    is then written back unchanged.

    The kernel is called as torch.optim calls it. Its public functions take 6 microseconds more, 2% of a step of a
    small network. They do not exist in a form without a list of parameters and their states.
    """
    torch._fused_adam_(
        list(w), list(g), list(m), list(v), list(largest), list(t), lr=lr, beta1=beta1, beta2=beta2, eps=eps,
        weight_decay=0.0, amsgrad=bool(largest), maximize=False,
    )  # fmt: skip

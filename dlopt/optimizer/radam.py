"""RAdam: rectified Adam."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks, fused_available
from dlopt.optimizer._adam import DiagonalAdam, bias_correction, fused_adam_step_
from dlopt.parts import ObjectiveOracle, Step


class RAdamState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    t: int  # steps taken, on the host, which chooses the form of a step


@dataclass(frozen=True)
class RAdam(DiagonalAdam):
    """RAdam: Adam that scales its steps by how well the second moment is known.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,  m^ = m / (1 - beta1^t),  t = 1, 2, ...
        rho > 5   w <- w - lr r m^ sqrt(1 - beta2^t) / (sqrt(v) + eps)
        else      w <- w - lr m^
        rho = rho_inf - 2 t beta2^t / (1 - beta2^t),   rho_inf = 2 / (1 - beta2) - 1
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))

    In the first steps v averages few gradients, so 1 / sqrt(v) has a large variance. rho is the length of a simple
    average with the variance of v: it grows about as t up to rho_inf, 1999 for beta2 = 0.999. r grows from 0.03 at step
    6 to 1, so RAdam needs no warm-up. Until rho exceeds 5, steps are those of gradient descent with momentum, of the
    same lr: 5 steps for beta2 = 0.999, all steps for beta2 <= 2/3.

    This is the form of torch. The paper divides by the corrected root without eps and has the threshold 4. The authors'
    code has rho >= 5 and takes no step below it by default. It decays weights in the way of
    regularization=weight_decay; the paper has no decay.

    Source: Liu, Jiang, He, Chen, Liu, Gao and Han 2020, algorithm 2; the form of torch.optim.RAdam.
    """

    def init(self, w: Tensor, layout: Layout) -> RAdamState:
        return RAdamState(torch.zeros_like(w), torch.zeros_like(w), 0)

    def step(self, w: Tensor, state: RAdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, t = state.m, state.v, state.t + 1
        r = compute_rectification(self.beta2, t)
        if fused_available(w) and r > 0.0:
            count = torch.full((), t, dtype=torch.float32, device=w.device)
            eps = self.eps / bias_correction(self.beta2, t) ** 0.5
            fused_adam_step_([w], [g], [m], [v], [count], lr=self.lr * r, beta1=self.beta1, beta2=self.beta2, eps=eps)
        else:
            for w_, g_, m_, v_ in cache_chunks(w, g, m, v):
                m_.lerp_(g_, 1 - self.beta1)
                v_.lerp_(g_ * g_, 1 - self.beta2)
                addcdiv_scaled_(w_, -self.lr, m_, self._compute_divisor(v_, t))
        return Step(w, RAdamState(m, v, t), loss, g)

    def preconditioner(self, state: RAdamState) -> Tensor:
        return self._compute_divisor(state.v, state.t)

    def _compute_divisor(self, v: Tensor, t: int) -> Tensor:
        """Return what divides m in step t."""
        m_correction, v_correction = bias_correction(self.beta1, t), bias_correction(self.beta2, t)
        r = compute_rectification(self.beta2, t)
        if isinstance(r, float):
            divisor = v.sqrt().add_(self.eps).div_(r * v_correction**0.5) if r > 0.0 else torch.ones_like(v)
        else:
            divisor = torch.where(r > 0.0, v.sqrt().add_(self.eps) / (r * v_correction**0.5), 1.0)
        return divisor.mul_(m_correction)


def compute_rectification(beta2: float | Tensor, t: int) -> float | Tensor:
    """Return r of step t, 0 if rho is at most 5. rho is a small difference, so columns are computed in float64."""
    exact = beta2.double() if isinstance(beta2, Tensor) else beta2
    correction = bias_correction(exact, t)
    longest = 2 / (1 - exact) - 1
    rho = longest - 2 * t * (1 - correction) / correction
    if isinstance(rho, float) and rho <= THRESHOLD:
        return 0.0
    square = (rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho)
    if isinstance(beta2, Tensor):
        return torch.where(rho > THRESHOLD, square.sqrt(), 0.0).to(beta2.dtype)
    return math.sqrt(square)


THRESHOLD = 5
"""Length of the average from which on steps are rectified, as in torch."""

"""AdaHessian: Adam with an estimate of the diagonal of the Hessian in place of the squared gradient."""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.diagonal import estimate_diagonal
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks
from dlopt.optimizer._adam import AdamHyperparameters, bias_correction
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Count, Range


class AdaHessianState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of D^2
    t: int  # steps taken, on the host, which has to know when an estimate is due


@dataclass(frozen=True)
class AdaHessian(AdamHyperparameters):
    """AdaHessian: Adam with an estimate of the diagonal of the Hessian in place of the squared gradient.

        D = z * Hz,   z: random signs,   averaged over the positions of each kernel of a convolution
        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) D^2
        w <- w - lr m^ / (v^^(hessian_power / 2) + eps),   m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^s)

    D is an unbiased estimate of diag H, from one product with the Hessian of the mini-batch. Its average over time and
    positions reduces its noise. The square makes curvatures positive, so steps go downhill. A new D is drawn at the
    first step and at every update_every-th one; s counts the draws, and v changes only with them.

    lr              learning rate; larger than Adam's, as steps are in units of g / curvature
    beta1           decay of the average of gradients
    beta2           decay of the average of squared curvatures
    eps             keeps the division finite where curvatures vanish
    hessian_power   1: division by the curvature; 0: gradient descent with momentum
    update_every    steps between two estimates of D; a step with an estimate costs 3.7 gradients

    Departures: D is averaged over kernels with its sign, as in the paper; the authors' code averages |D|. eps is in the
    code, not in the paper's algorithm. The code's default of 1e-4 lets weights of little curvature take large steps,
    and needs a smaller or decaying lr. With update_every > 1 the code repeats the last D^2 in the average.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney 2021, algorithm 1 and equations 10-12.
    """

    needs_true_gradient = True
    uses_curvature = True

    hessian_power: Annotated[float, Range(ge=0, le=1)]
    update_every: Count

    def init(self, w: Tensor, layout: Layout) -> AdaHessianState:
        return AdaHessianState(torch.zeros_like(w), torch.zeros_like(w), 0)

    def step(self, w: Tensor, state: AdaHessianState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, before = state
        if before % self.update_every == 0:
            key = objective.random_key("adahessian")
            d = estimate_diagonal(lambda z: objective.hvp(w, z), w, 1, key).value
            v.lerp_(average_over_kernels(d, objective.layout).square(), 1 - self.beta2)
        t = before + 1
        m_correction = bias_correction(self.beta1, t)
        v_correction = bias_correction(self.beta2, math.ceil(t / self.update_every))
        for w_, g_, m_, v_ in cache_chunks(w, g, m, v):
            scale = (v_ / v_correction).sqrt_().pow_(self.hessian_power)
            addcdiv_scaled_(w_, -self.lr, m_.lerp_(g_, 1 - self.beta1) / m_correction, scale.add_(self.eps))
        return Step(w, AdaHessianState(m, v, t), loss, g)


def average_over_kernels(d: Tensor, layout: Layout) -> Tensor:
    """Replace in d, (..., P), the entries of each kernel of a convolution by their mean over its positions."""
    for p in layout:
        if len(p.shape) > 2:
            kernels = d[..., p.slice].unflatten(-1, (p.shape[0] * p.shape[1], -1))
            kernels.copy_(kernels.mean(-1, keepdim=True).expand_as(kernels))
    return d

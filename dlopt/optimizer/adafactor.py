"""Adafactor: factored second moments."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout, Parameter
from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._layerwise import compute_rms, select
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import NonNegative, Positive


class AdafactorState(NamedTuple):
    rows: Tensor  # (..., sum of rows), averages of g^2 over the columns of each matrix
    columns: Tensor  # (..., sum of columns), averages of g^2 over the rows of each matrix
    v: Tensor  # (..., R), average of g^2, for the R weights outside the matrices
    t: int  # steps taken, on the host, which computes the decay


@dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adafactor: scales gradients by a second moment that is stored as factors of rows and columns of each matrix W.

        R <- b R + (1 - b) mean over columns of (G^2 + eps1),   b = 1 - t^-decay_exponent,  t = 1, 2, ...
        C <- b C + (1 - b) mean over rows of (G^2 + eps1),      V = R C' / mean of R
        U = G / sqrt(V),  W <- W - a U / max(1, RMS(U) / clip_threshold)
        a = max(eps2, RMS(W)) min(lr, 1 / sqrt(t)),   RMS(X) = sqrt(mean of X^2)

    V is the matrix of rank one with the row and column means of the average of G^2. A matrix of n x m weights needs
    n + m numbers, Adam 2 n m. Kernels of a convolution are matrices of shape out x (in * field). Biases and
    normalization parameters have an average of their own, V <- b V + (1 - b) (G^2 + eps1).

    b grows to 1, so no bias correction is needed, and the clipping limits steps while V is outdated. A parameter that
    starts at 0 first moves by eps2 lr per step.

    lr                maximum relative step
    relative_step     false: lr in place of min(lr, 1 / sqrt(t))
    scale_parameter   false: 1 in place of max(eps2, RMS(W)); then use an lr as for Adam
    decay_exponent    how fast the decay b grows to 1
    clip_threshold    d, the maximum RMS of a step before it is multiplied by a
    eps1              added to squared gradients
    eps2              minimum of RMS(W)

    Departures: the source has a fixed lr of 0.01. torch.optim.Adafactor has eps1 as a minimum of sqrt(V) and of the
    mean of R instead, and a decoupled decay, which is regularization=weight_decay here. Hugging Face transformers
    scales its decay by a, and adds a first moment (beta1) and a warm-up (warmup_init, schedule=warmup here). Both
    factor the last two dimensions of a kernel by themselves, for each of the others.

    Source: Shazeer and Stern 2018, algorithms 4 to 6, with means in place of sums.
    """

    lr: Positive
    relative_step: bool
    scale_parameter: bool
    decay_exponent: NonNegative
    clip_threshold: Positive
    eps1: Positive
    eps2: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdafactorState:
        matrices, vectors = layout.partition_weights()
        sizes = sum(p.shape[0] for p in matrices), sum(count_columns(p) for p in matrices), sum(p.size for p in vectors)
        rows, columns, v = (w.new_zeros(*w.shape[:-1], n) for n in sizes)
        return AdafactorState(rows, columns, v, 0)

    def step(self, w: Tensor, state: AdafactorState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        t = state.t + 1
        weight = t**-self.decay_exponent
        matrices, vectors = objective.layout.partition_weights()
        rows = state.rows.split([p.shape[0] for p in matrices], dim=-1)
        columns = state.columns.split([count_columns(p) for p in matrices], dim=-1)
        steps = []
        for g_, row, column in zip(select(g, matrices), rows, columns, strict=True):
            matrix = g_.unflatten(-1, (row.shape[-1], -1))
            square = matrix.square()
            row.lerp_(square.mean(-1) + self.eps1, weight)
            column.lerp_(square.mean(-2) + self.eps1, weight)
            u = torch.mul(matrix, column.rsqrt().unsqueeze(-2), out=square)
            steps.append(u.mul_((row / row.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)).flatten(-2))
        for g_, v in zip(select(g, vectors), state.v.split([p.size for p in vectors], dim=-1), strict=True):
            v.lerp_(g_.square() + self.eps1, weight)
            steps.append(g_ * v.rsqrt())
        parts = select(w, [*matrices, *vectors])
        for part, rate, u in zip(parts, self._compute_rates(parts, steps, w, t).split(1, dim=-1), steps, strict=True):
            axpy_(part, rate, u)
        return Step(w, state._replace(t=t), loss, g)

    def _compute_rates(self, parts: list[Tensor], steps: list[Tensor], w: Tensor, t: int) -> Tensor:
        """Return the factors, (..., K), of the steps of K parameters."""
        rate = self.lr
        if self.relative_step:
            rate = rate.clamp(max=t**-0.5) if isinstance(rate, Tensor) else min(rate, t**-0.5)
        size = compute_rms(parts, w).clamp_(min=self.eps2) if self.scale_parameter else 1.0
        return -rate * size / (compute_rms(steps, w) / self.clip_threshold).clamp_(min=1.0)


def count_columns(p: Parameter) -> int:
    return p.size // p.shape[0]

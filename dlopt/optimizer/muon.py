"""Muon."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available
from dlopt.optimizer._adam import fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, Positive


class MuonState(NamedTuple):
    m: Tensor  # (..., P), momentum of the matrices, and Adam's average of g elsewhere
    v: Tensor  # (..., R), Adam's average of g^2, for the R weights that are in none of the matrices
    t: Tensor  # (), float32, steps taken


@dataclass(frozen=True)
class Muon(Optimizer):
    """B <- momentum B + G,  W <- W - lr c O(G + momentum B),  or O(B) with nesterov=false, for each matrix W.

    O(X) is nearly U V' where X = U S V': the same step along all singular directions, so that those count too in which
    gradients are always small. It comes without a decomposition, by Newton and Schulz's iteration from X / |X|,

        X <- 3.4445 X - 4.7750 (X X') X + 2.0315 (X X')^2 X,

    which acts on the singular values alone. These coefficients are made for speed, not for convergence: after 5 steps
    singular values lie between 0.7 and 1.2, but for those that were below a few thousandths of |X|. It is computed in
    the type of w, as nothing else here is rounded; the source and torch take bfloat16, which has three digits and is
    several times as fast on processors that multiply in it.

    Matrices are the weights of kind `weight`, a convolution's kernels flattened to out x (in * field). Biases, norms,
    and with hidden_only the first and the last weight matrix, as the source has it, move by Adam. Beside it
    regularization=weight_decay shrinks all weights by lr, also those that Adam moves by lr adam_lr_scale.

    lr            learning rate of the matrices: the spectral norm of a step is about lr c
    momentum      share of the momentum that a step keeps
    nesterov      whether the gradient is added once more
    ns_steps         of the iteration
    bfloat16      whether it is computed in bfloat16
    scaling       original: c = sqrt(max(1, out / in)); match_rms_adamw: c = 0.2 sqrt(max(out, in)), by which the
                  step of a weight is on average that of an Adam with this rate
    hidden_only   whether the first and the last weight matrix are left to Adam
    adam_lr_scale     Adam's learning rate as a multiple of lr: schedules move both
    beta1         of Adam: decay of the average of gradients
    beta2         of Adam: decay of the average of their squares
    eps           of Adam: keeps the division finite where gradients vanish

    Source: Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein 2024, "Muon: an optimizer for hidden layers in
    neural networks"; match_rms_adamw: Liu et al. 2025, "Muon is scalable for LLM training", equation 4.
    """

    lr: Positive
    momentum: Fraction
    nesterov: bool
    ns_steps: Count
    bfloat16: bool
    scaling: Literal["original", "match_rms_adamw"]
    hidden_only: bool
    adam_lr_scale: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive

    def init(self, w: Tensor, layout: Layout) -> MuonState:
        rest = sum(s.stop - s.start for s in self._pieces(layout)[1])
        return MuonState(torch.zeros_like(w), w.new_zeros(*w.shape[:-1], rest), torch.zeros((), device=w.device))

    def check(self, w: Tensor, layout: Layout) -> None:
        if not self._pieces(layout)[0]:
            between = " between the first and the last; take optimizer.hidden_only=false" if self.hidden_only else ""
            raise ValueError(f"it has no weight matrix{between}")

    def step(self, w: Tensor, state: MuonState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        matrices, rest = self._pieces(objective.layout)
        for shape, slices in matrices.items():
            directions = [self._direction(state.m[..., s], g[..., s]).unflatten(-1, shape) for s in slices]
            stacked = torch.stack(directions, dim=-3)
            steps = (
                orthogonalize(stacked.bfloat16() if self.bfloat16 else stacked, self.ns_steps).to(w.dtype).flatten(-2)
            )
            for i, s in enumerate(slices):
                axpy_(w[..., s], -self.lr * self._scale(shape), steps[..., i, :])
        if rest:
            fits = fused_available(w)
            (self._fused_adam if fits else self._adam)(w, state, g, rest)
        return Step(w, state, loss, g)

    def _pieces(self, layout: Layout) -> tuple[dict[tuple[int, int], list[slice]], list[slice]]:
        """The slices of the matrices, by their shapes, and those of all else, neighbours as one."""
        found = [p for p in layout if p.kind == "weight"]
        chosen = {p.start for p in (found[1:-1] if self.hidden_only else found)}
        matrices: dict[tuple[int, int], list[slice]] = {}
        rest: list[slice] = []
        for p in layout:
            if p.start in chosen:
                matrices.setdefault((p.shape[0], p.size // p.shape[0]), []).append(p.slice)
            elif rest and rest[-1].stop == p.start:
                rest[-1] = slice(rest[-1].start, p.slice.stop)
            else:
                rest.append(p.slice)
        return matrices, rest

    def _direction(self, b: Tensor, g: Tensor) -> Tensor:
        b.mul_(self.momentum).add_(g)
        return g + self.momentum * b if self.nesterov else b

    def _scale(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        if self.scaling == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))

    def _adam(self, w: Tensor, state: MuonState, g: Tensor, rest: list[slice]) -> None:
        """Adam's textbook form, in place, for any leading dimensions."""
        t = state.t.add_(1).to(w.dtype)
        squares = state.v.split([s.stop - s.start for s in rest], dim=-1)
        for s, v in zip(rest, squares, strict=True):
            m_hat = state.m[..., s].lerp_(g[..., s], 1 - self.beta1) / (1 - self.beta1**t)
            v_hat = v.lerp_(g[..., s].square(), 1 - self.beta2) / (1 - self.beta2**t)
            w[..., s] -= self.lr * self.adam_lr_scale * m_hat / (v_hat.sqrt_() + self.eps)

    def _fused_adam(self, w: Tensor, state: MuonState, g: Tensor, rest: list[slice]) -> None:
        """The same in torch's fused kernel, for a single run."""
        m, v, t = state
        sizes = [s.stop - s.start for s in rest]
        fused_adam_step_(
            [w[s] for s in rest], [g[s] for s in rest], [m[s] for s in rest], v.split(sizes), [t.add_(1)] * len(rest),
            lr=self.lr * self.adam_lr_scale, beta1=self.beta1, beta2=self.beta2, eps=self.eps,
        )  # fmt: skip


def orthogonalize(x: Tensor, steps: int) -> Tensor:
    """Newton and Schulz's iteration on matrices (..., rows, columns), each by itself."""
    y = x.mT if x.shape[-2] > x.shape[-1] else x
    wide = y.shape
    y = (y / torch.linalg.matrix_norm(y, keepdim=True).clamp(min=SMALL)).reshape(-1, *wide[-2:])
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), y, beta=A)
    y = y.reshape(wide)
    return y.mT if x.shape[-2] > x.shape[-1] else y


A, B, C = 3.4445, -4.7750, 2.0315
"""The quintic of the source, whose slope at zero is large."""
SMALL = 1e-7
"""The least norm that a matrix is divided by, as in torch: one of zeros stays what it is."""

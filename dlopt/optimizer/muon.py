"""Muon."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._adam import adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, Positive


class MuonState(NamedTuple):
    m: Tensor  # (..., P), momentum B of the matrices, Adam's average of g elsewhere
    v: Tensor  # (..., R), Adam's average of g^2, for the R weights outside the matrices
    t: Tensor  # (), float32, steps taken by Adam


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon: orthogonalizes the momentum of hidden weight matrices; Adam for all other weights.

        B <- momentum B + G,  W <- W - lr c O(G + momentum B),  or O(B) with nesterov=false, for each matrix W

    O(X) is close to U V' for X = U S V': a step of the same size along all singular directions. It is computed by
    ns_steps Newton-Schulz iterations, which act only on the singular values, from X / |X|:

        X <- 3.4445 X - 4.7750 (X X') X + 2.0315 (X X')^2 X

    The coefficients are chosen for speed, not convergence: after 5 iterations singular values lie between 0.7 and 1.2,
    except those that were below a few thousandths of |X|. The source and torch iterate in bfloat16.

    Kernels of a convolution are matrices of shape out x (in * field). Adam updates biases, normalization parameters
    and, with hidden_only, the first and the last weight matrix. regularization=weight_decay scales the decay of each
    weight by the learning rate of the part that updates it, lr or lr adam_lr_scale, as the authors' code does.

    lr              learning rate of the matrices: the spectral norm of a step is about lr c
    momentum        fraction of the momentum that a step keeps
    nesterov        add the gradient once more
    ns_steps        Newton-Schulz iterations
    bfloat16        iterate in bfloat16: faster, three digits; false: in the type of w
    scaling         original: c = sqrt(max(1, out / in)); match_rms_adamw: c = 0.2 sqrt(max(out, in)), with which the
                    step of a weight is on average as long as that of AdamW
    hidden_only     leave the first and the last weight matrix to Adam
    adam_lr_scale   Adam's learning rate, as a multiple of lr: schedules change both
    beta1           of Adam: decay of the average of gradients
    beta2           of Adam: decay of the average of squared gradients
    eps             of Adam: keeps the division finite where gradients vanish

    Raises ValueError before a run if the network has no such matrix.

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
        rest = sum(s.stop - s.start for s in self._partition(layout)[1])
        return MuonState(torch.zeros_like(w), w.new_zeros(*w.shape[:-1], rest), torch.zeros((), device=w.device))

    def check(self, w: Tensor, layout: Layout) -> None:
        if not self._partition(layout)[0]:
            between = " between the first and the last; take optimizer.hidden_only=false" if self.hidden_only else ""
            raise ValueError(f"it has no weight matrix{between}")

    def step(self, w: Tensor, state: MuonState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        matrices, rest = self._partition(objective.layout)
        for shape, slices in matrices.items():
            directions = []
            for s in slices:
                b = state.m[..., s].mul_(self.momentum).add_(g[..., s])
                directions.append((g[..., s] + self.momentum * b if self.nesterov else b).unflatten(-1, shape))
            x = torch.stack(directions, dim=-3)
            x = orthogonalize(x.bfloat16() if self.bfloat16 else x, self.ns_steps).to(w.dtype).flatten(-2)
            for i, s in enumerate(slices):
                axpy_(w[..., s], -self.lr * self._scale(shape), x[..., i, :])
        if rest:
            w_, g_, m = ([x[..., s] for s in rest] for x in (w, g, state.m))
            v = state.v.split([s.stop - s.start for s in rest], dim=-1)
            lr = self.lr * self.adam_lr_scale
            adam_step_(w_, g_, m, v, state.t, lr=lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return Step(w, state, loss, g)

    def lr_factors(self, w: Tensor, layout: Layout) -> Tensor:
        factors = torch.ones_like(w) * self.adam_lr_scale
        for slices in self._partition(layout)[0].values():
            for s in slices:
                factors[..., s] = 1.0
        return factors

    def _partition(self, layout: Layout) -> tuple[dict[tuple[int, int], list[slice]], list[slice]]:
        """Return the slices of the matrices, by shape, and those of all other weights, neighbours joined."""
        weights = [p for p in layout if p.kind == "weight"]
        starts = {p.start for p in (weights[1:-1] if self.hidden_only else weights)}
        matrices: dict[tuple[int, int], list[slice]] = {}
        rest: list[slice] = []
        for p in layout:
            if p.start in starts:
                matrices.setdefault((p.shape[0], p.size // p.shape[0]), []).append(p.slice)
            elif rest and rest[-1].stop == p.start:
                rest[-1] = slice(rest[-1].start, p.slice.stop)
            else:
                rest.append(p.slice)
        return matrices, rest

    def _scale(self, shape: tuple[int, int]) -> float:
        rows, columns = shape
        if self.scaling == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))


def orthogonalize(x: Tensor, steps: int) -> Tensor:
    """Apply Newton-Schulz iterations to matrices (..., rows, columns), each by itself."""
    y = x.mT if x.shape[-2] > x.shape[-1] else x
    wide = y.shape
    y = (y / torch.linalg.matrix_norm(y, keepdim=True).clamp(min=SMALL)).reshape(-1, *wide[-2:])
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), y, beta=A)
    y = y.reshape(wide)
    return y.mT if x.shape[-2] > x.shape[-1] else y


A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the source, with a large slope at zero."""
SMALL = 1e-7
"""Minimum norm that a matrix is divided by, as in torch: a matrix of zeros stays zero."""

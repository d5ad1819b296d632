"""Shampoo."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout, Parameter
from dlopt.linalg.inplace import addcmul_scaled_, axpy_, cache_chunks
from dlopt.linalg.symmetric import eigh_or_nan
from dlopt.optimizer._adam import AdamHyperparameters, bias_correction
from dlopt.optimizer._kronecker import align, view_square
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Count, Positive, Probability


class ShampooState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of g^2
    factors: Tensor  # (..., K), L and R of each block, one after the other
    roots: Tensor  # (..., K), their inverse fourth roots
    t: int  # steps taken, on the host, which has to know when roots are due


class Block(NamedTuple):
    """A block of a weight matrix: the matrix in w, rows and columns, and the slices of L and R in `factors`."""

    place: slice
    shape: tuple[int, int]
    rows: slice
    columns: slice
    left: slice
    right: slice

    def view(self, x: Tensor) -> Tensor:
        """Return the view of x, (..., P), as this block."""
        return x[..., self.place].unflatten(-1, self.shape)[..., self.rows, self.columns]


@dataclass(frozen=True)
class Shampoo(AdamHyperparameters):
    """Shampoo: multiplies the gradient of each weight matrix W (out x in) by inverse roots of its Kronecker factors.

        M <- beta1 M + (1 - beta1) G
        L <- beta2 L + (1 - beta2) G G',  R <- beta2 R + (1 - beta2) G' G,  V <- beta2 V + (1 - beta2) G^2
        U = (L^ + r I)^(-1/4) M^ (R^ + s I)^(-1/4),  r = ridge lambda_max(L^),  s = ridge lambda_max(R^)
        W <- W - lr U |D| / |U|,  D = M^ / (sqrt(V^) + eps)

    M^ = M / (1 - beta1^t), and L^, R^ and V^ likewise. With beta2 = 1, L, R and V are sums, as in Gupta et al. The
    roots are computed at the first step, and at every step that is a multiple of precondition_frequency. Grafting takes
    the direction of Shampoo and the Euclidean norm of another optimizer's step for the matrix, so that Adam's learning
    rates and schedules fit. That optimizer updates biases and normalization parameters. Kernels of a convolution are
    matrices of shape out x (in * field); the papers have a factor for each dimension of a kernel.

    A matrix with a longer side than block_size is split into blocks with factors of their own, the last ones smaller.

    beta2                    decay of the averages of squares and of factors; 1: sums
    eps                      keeps the division in D finite where gradients vanish
    ridge                    added to eigenvalues of a factor, in units of its largest: directions that no gradient has
                             reached are enlarged by ridge^(-1/4) at most, and rounding with them
    block_size               largest side of a block
    precondition_frequency   steps between two computations of the roots
    graft                    adam: D above; sgd: D = M^; none: U as it is, and D of Adam for all that is no matrix

    The authors' codes depart from each other. In Anil et al. the momentum is of U, after grafting; here, as in Shi et
    al., of G. Shi et al. add an absolute number to the factors, and graft each block; here, as in Anil et al., the
    ridge is relative, and the norms are of a whole matrix. Roots come from an eigendecomposition, as in Shi et al., and
    in float64, as in Anil et al., who find them by Newton iterations.

    Cost: four products with squares of at most block_size per step, and eigendecompositions now and then.

    Source: Gupta, Koren and Singer 2018, algorithm 1; blocks and grafting: Anil, Gupta, Koren, Regan and Singer 2020;
    averages and their corrections: Shi et al. 2023.
    """

    beta2: Probability
    ridge: Positive
    block_size: Count
    precondition_frequency: Count
    graft: Literal["adam", "sgd", "none"]

    def init(self, w: Tensor, layout: Layout) -> ShampooState:
        last = [blocks[-1] for blocks in self._list_matrices(layout)][-1:]
        factors = w.new_zeros(*w.shape[:-1], last[0].right.stop if last else 0)
        return ShampooState(torch.zeros_like(w), torch.zeros_like(w), factors, torch.zeros_like(factors), 0)

    def step(self, w: Tensor, state: ShampooState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        matrices = self._list_matrices(objective.layout)
        t = state.t + 1
        state.m.lerp_(g, 1 - self.beta1)
        weight, correction = _weigh(self.beta2, t)
        for v, g_ in cache_chunks(state.v, g):
            addcmul_scaled_(v.mul_(self.beta2), weight, g_, g_)
        for block in itertools.chain(*matrices):
            x = block.view(g)
            for side, factor in ((block.left, x), (block.right, x.mT)):
                _add_square_(view_square(state.factors, side), self.beta2, weight, factor)
        if t == 1 or t % self.precondition_frequency == 0:
            for side in (side for block in itertools.chain(*matrices) for side in (block.left, block.right)):
                factor = view_square(state.factors, side) / align(correction, state.factors)
                state.roots[..., side] = invert_root(factor, self.ridge).flatten(-2)
        update = self._compute_graft(state, bias_correction(self.beta1, t), correction)
        for blocks in matrices:
            self._precondition_(update, state, blocks, bias_correction(self.beta1, t))
        return Step(axpy_(w, -self.lr, update), state._replace(t=t), loss, g)

    def _compute_graft(self, state: ShampooState, m_correction: Any, v_correction: Any) -> Tensor:
        """Return D of all weights."""
        if self.graft == "sgd":
            return state.m / m_correction
        update = torch.empty_like(state.m)
        for d, m, v in cache_chunks(update, state.m, state.v):
            torch.div(m / m_correction, (v / v_correction).sqrt_().add_(self.eps), out=d)
        return update

    def _precondition_(self, update: Tensor, state: ShampooState, blocks: list[Block], m_correction: Any) -> None:
        """Write U of a matrix into `update`, scaled to the norm of what is there."""
        place = blocks[0].place
        norm = torch.linalg.vector_norm(update[..., place], dim=-1, keepdim=True)
        for block in blocks:
            left, right = (view_square(state.roots, side) for side in (block.left, block.right))
            torch.matmul(left @ block.view(state.m), right, out=block.view(update))
        u = update[..., place]
        if self.graft == "none":
            u.div_(m_correction)
        else:
            u.mul_(norm / torch.linalg.vector_norm(u, dim=-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny))

    def _list_matrices(self, layout: Layout) -> list[list[Block]]:
        """Return the blocks of each weight matrix."""
        matrices: list[list[Block]] = []
        start = 0
        for p in layout:
            if p.kind == "weight":
                matrices.append(_split_matrix(p, self.block_size, start))
                start = matrices[-1][-1].right.stop
        return matrices


def _split_matrix(p: Parameter, size: int, start: int) -> list[Block]:
    """Return the blocks of a weight matrix; their factors begin at `start`."""
    shape = p.shape[0], p.size // p.shape[0]
    rows, columns = ([slice(i, min(i + size, n)) for i in range(0, n, size)] for n in shape)
    blocks = []
    for row, column in itertools.product(rows, columns):
        middle = start + (row.stop - row.start) ** 2
        stop = middle + (column.stop - column.start) ** 2
        blocks.append(Block(p.slice, shape, row, column, slice(start, middle), slice(middle, stop)))
        start = stop
    return blocks


def _weigh(beta: float | Tensor, t: int) -> tuple[Any, Any]:
    """Return the weight of a new term of an average, 1 - beta, and its correction, 1 - beta^t; of a sum, ones."""
    if isinstance(beta, Tensor):
        is_sum = beta == 1
        return torch.where(is_sum, 1.0, 1 - beta), torch.where(is_sum, 1.0, bias_correction(beta, t))
    return (1.0, 1.0) if beta == 1 else (1 - beta, bias_correction(beta, t))


def _add_square_(factor: Tensor, beta: float | Tensor, weight: Any, x: Tensor) -> None:
    """Compute L <- beta L + weight X X' in place for matrices (..., n, n), in one product if the numbers are shared."""
    if isinstance(beta, Tensor):
        axpy_(factor.mul_(align(beta, factor)), align(weight, factor), x @ x.mT)
    elif factor.ndim == 2:
        factor.addmm_(x, x.mT, beta=beta, alpha=weight)
    else:
        factor.baddbmm_(x, x.mT, beta=beta, alpha=weight)


def invert_root(a: Tensor, ridge: float | Tensor) -> Tensor:
    """Return (a + ridge lambda_max I)^(-1/4) of symmetric matrices (..., n, n) without negative eigenvalues.

    It is computed in float64 where the device has it: the smallest eigenvalues would be those of rounding.
    """
    values, vectors = eigh_or_nan(a if a.device.type == "mps" else a.double())
    tiny = torch.finfo(a.dtype).tiny
    shifted = values.clamp(min=0.0) + ridge * values[..., -1:]
    scaled, vectors = (vectors * shifted.clamp(min=tiny).pow(-0.25).unsqueeze(-2)).to(a.dtype), vectors.to(a.dtype)
    return scaled @ vectors.mT

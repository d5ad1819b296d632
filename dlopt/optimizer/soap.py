"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._adam import AdamHyperparameters, bias_correction
from dlopt.optimizer._kronecker import view_square
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import Count


class SOAPState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of the squares of the rotated g
    products: Tensor  # (..., K), all L and R, one after the other
    bases: Tensor  # (..., K), their Q
    t: int  # steps taken, on the host, which has to know when the bases are due


class Matrix(NamedTuple):
    """A weight matrix: its slice of w and those of L and R in `products`, None for a side without a basis."""

    place: slice
    shape: tuple[int, int]
    left: slice | None
    right: slice | None

    def view(self, x: Tensor) -> Tensor:
        """Return the view of x, (..., P), as this matrix."""
        return x[..., self.place].unflatten(-1, self.shape)


@dataclass(frozen=True)
class SOAP(AdamHyperparameters):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner, for each weight matrix W (out x in).

        M <- beta1 M + (1 - beta1) G,  V <- beta2 V + (1 - beta2) (Ql' G Qr)^2
        W <- W - lr Ql [Ql' M^ Qr / (sqrt(V^) + eps)] Qr'  with  M^ = M / (1 - beta1^t),  V^ = V / (1 - beta2^t)
        L <- beta2 L + (1 - beta2) G G',  R <- beta2 R + (1 - beta2) G' G

    Ql and Qr are the eigenvectors of L and R, the axes along which the gradient's entries are least correlated. The
    first step is Adam's, with Q = I. After it Q comes from a full decomposition. Later, at every step that is a
    multiple of precondition_frequency, it comes from one iteration of the power method, Q <- qr(L Q). V is kept as Q
    changes. Kernels of a convolution are matrices of shape out x (in * field). Adam updates biases and normalization
    parameters.

    The first step differs from the authors' code, which takes no step on the first gradient: it only computes L, R and
    their bases from it. Algorithm 3 makes no such exception.

    Before a decomposition, a millionth of the mean of the diagonal of L or R is added to it, and slightly more to each
    entry than to the one before: otherwise rounding would decide the axes that no gradient has reached yet. If L is not
    finite, Ql is I.

    beta2                    decay of the averages of squares and of products
    precondition_frequency   steps between two updates of the bases
    max_size                 Ql = I for a matrix with more rows than this, Qr = I with more columns

    Cost: eight products of each matrix with its bases per step, so use it where gradients are expensive.

    Source: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson and Kakade 2025, algorithms 3 and 4; bias
    corrections and eps outside the root as in Adam.
    """

    precondition_frequency: Count
    max_size: Count

    def init(self, w: Tensor, layout: Layout) -> SOAPState:
        axes = [torch.eye(math.isqrt(s.stop - s.start)).flatten() for s in list_sides(self._list_matrices(layout))]
        bases = torch.cat([*axes, torch.zeros(0)]).to(w).expand(*w.shape[:-1], -1).clone()
        return SOAPState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(bases), bases, 0)

    def step(self, w: Tensor, state: SOAPState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        matrices = self._list_matrices(objective.layout)
        m, v, products, bases, before = state
        t = before + 1
        m.lerp_(g, 1 - self.beta1)
        v.lerp_(rotate(g, bases, matrices).square_(), 1 - self.beta2)
        direction = rotate(m, bases, matrices) / bias_correction(self.beta1, t)
        direction /= (v / bias_correction(self.beta2, t)).sqrt_().add_(self.eps)
        axpy_(w, -self.lr, rotate(direction, bases, matrices, back=True))
        for matrix in matrices:
            x = matrix.view(g)
            for side, product in ((matrix.left, x @ x.mT), (matrix.right, x.mT @ x)):
                if side:
                    products[..., side].lerp_(product.flatten(-2), 1 - self.beta2)
        if t == 1 or t % self.precondition_frequency == 0:
            for side in list_sides(matrices):
                basis = view_square(bases, side)
                basis.copy_(update_basis(view_square(products, side), None if t == 1 else basis))
        return Step(w, state._replace(t=t), loss, g)

    def _list_matrices(self, layout: Layout) -> list[Matrix]:
        matrices: list[Matrix] = []
        start = 0
        for p in layout:
            if p.kind == "weight":
                sides: list[slice | None] = []
                shape = p.shape[0], p.size // p.shape[0]
                for n in shape:
                    sides.append(slice(start, start + n * n) if n <= self.max_size else None)
                    start += n * n if n <= self.max_size else 0
                matrices.append(Matrix(p.slice, shape, *sides))
        return matrices


def list_sides(matrices: list[Matrix]) -> list[slice]:
    """Return the slices of all L and R in `products`."""
    return [side for matrix in matrices for side in (matrix.left, matrix.right) if side]


def rotate(x: Tensor, bases: Tensor, matrices: list[Matrix], *, back: bool = False) -> Tensor:
    """Return x, (..., P), with each matrix X replaced by Ql' X Qr, or back: by Ql X Qr'."""
    rotated = x.clone()
    for matrix in matrices:
        y = matrix.view(x)
        if matrix.left:
            q = view_square(bases, matrix.left)
            y = (q if back else q.mT) @ y
        if matrix.right:
            q = view_square(bases, matrix.right)
            y = y @ (q.mT if back else q)
        rotated[..., matrix.place] = y.flatten(-2)
    return rotated


def update_basis(product: Tensor, basis: Tensor | None) -> Tensor:
    """Return eigenvectors of symmetric matrices (..., n, n), largest eigenvalue first; I where one is not finite.

    From a basis, take one orthogonalized step of the power method instead of a decomposition.
    """
    n = product.shape[-1]
    identity = torch.eye(n).to(product)
    mean = product.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    tilted = product + TILT * mean * torch.linspace(1.0, 2.0, n).to(product).diag()
    finite = tilted.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    tilted = torch.where(finite, tilted, identity)  # decompositions raise for a whole batch if one matrix has a NaN
    q = torch.linalg.eigh(tilted).eigenvectors.flip(-1) if basis is None else torch.linalg.qr(tilted @ basis).Q
    return torch.where(finite, q, identity)


TILT = 1e-6
"""Term added to a diagonal, in units of its mean."""

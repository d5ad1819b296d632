"""SOAP: Shampoo with Adam in the preconditioner's eigenbasis."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, Positive


class SOAPState(NamedTuple):
    m: Tensor  # (..., P), average of g
    v: Tensor  # (..., P), average of the squares of the turned g
    products: Tensor  # (..., K), all L and R, one after the other
    bases: Tensor  # (..., K), their Q
    t: int  # steps taken: a number of the host, which has to know whether the bases are due


class Matrix(NamedTuple):
    """A weight matrix: its place in w, and those of L and R among products; None for a side without a basis."""

    place: slice
    shape: tuple[int, int]
    left: slice | None
    right: slice | None

    def of(self, x: Tensor) -> Tensor:
        """The matrix that lies in x, (..., P): a view."""
        return x[..., self.place].unflatten(-1, self.shape)

    @property
    def sizes(self) -> list[int]:
        return [n for n, side in zip(self.shape, (self.left, self.right), strict=True) if side]


@dataclass(frozen=True)
class SOAP(Optimizer):
    """M <- beta1 M + (1 - beta1) G,  V <- beta2 V + (1 - beta2) (Ql' G Qr)^2,
    W <- W - lr Ql [Ql' M^ Qr / (sqrt(V^) + eps)] Qr',
    L <- beta2 L + (1 - beta2) G G',  R <- beta2 R + (1 - beta2) G' G,  for each weight matrix W (out x in),

    where Ql and Qr are the eigenvectors of L and R and M^ = M / (1 - beta1^t), V^ = V / (1 - beta2^t): Adam, seen along
    the axes in which the gradient's entries are least correlated. Shampoo would divide by the eigenvalues alone.
    The first step is Adam's, Q = I. After it Q comes from a full decomposition, and from then on, at every step
    whose number is a multiple of `every`, from an iteration of the power method, Q <- qr(L Q). V is kept as Q turns.

    Kernels of a convolution are matrices of shape out x (in * field). Biases and norms move by Adam. To the diagonals
    of L and R, as they are decomposed, a millionth of their mean is added, and a little more to each entry than to the
    one before: else axes that no gradient has reached yet would be a matter of rounding. Where L is not finite Ql is I.

    lr         learning rate: a bound on each turned weight's step, nearly
    beta1      decay of the average of gradients
    beta2      decay of the averages of squares and of products
    eps        keeps the division finite where gradients vanish
    precondition_frequency      steps from one turn of the bases to the next
    max_size   a matrix with more rows than this has Ql = I, one with more columns Qr = I

    A step costs eight products of each matrix with its bases: it pays where a gradient is dear, with large batches.

    Source: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson and Kakade 2025, algorithms 3 and 4; bias
    corrections and eps outside the root as in Adam.
    """

    lr: Positive
    beta1: Fraction
    beta2: Fraction
    eps: Positive
    precondition_frequency: Count
    max_size: Count

    def init(self, w: Tensor, layout: Layout) -> SOAPState:
        axes = [torch.eye(n).flatten() for matrix in self._matrices(layout) for n in matrix.sizes]
        bases = torch.cat([*axes, torch.zeros(0)]).to(w).expand(*w.shape[:-1], -1).clone()
        return SOAPState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(bases), bases, 0)

    def step(self, w: Tensor, state: SOAPState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        matrices = self._matrices(objective.layout)
        m, v, products, bases, before = state
        t = before + 1
        m.lerp_(g, 1 - self.beta1)
        v.lerp_(rotate(g, bases, matrices).square_(), 1 - self.beta2)
        direction = rotate(m, bases, matrices) / (1 - self.beta1**t)
        direction /= (v / (1 - self.beta2**t)).sqrt_().add_(self.eps)
        axpy_(w, -self.lr, rotate(direction, bases, matrices, back=True))
        for matrix in matrices:
            x = matrix.of(g)
            for side, product in ((matrix.left, x @ x.mT), (matrix.right, x.mT @ x)):
                if side:
                    products[..., side].lerp_(product.flatten(-2), 1 - self.beta2)
        if t == 1 or t % self.precondition_frequency == 0:
            for side in (side for matrix in matrices for side in (matrix.left, matrix.right) if side):
                product, basis = square(products, side), square(bases, side)
                basis.copy_(eigenvectors(product) if t == 1 else power_iterate(product, basis))
        return Step(w, state._replace(t=t), loss, g)

    def _matrices(self, layout: Layout) -> list[Matrix]:
        found: list[Matrix] = []
        start = 0
        for p in layout:
            if p.kind == "weight":
                sides: list[slice | None] = []
                shape = p.shape[0], p.size // p.shape[0]
                for n in shape:
                    sides.append(slice(start, start + n * n) if n <= self.max_size else None)
                    start += n * n if n <= self.max_size else 0
                found.append(Matrix(p.slice, shape, *sides))
        return found


def rotate(x: Tensor, bases: Tensor, matrices: list[Matrix], *, back: bool = False) -> Tensor:
    """Ql' X Qr of each matrix of x, (..., P), or back again, Ql X Qr'; the rest of x as it is."""
    found = x.clone()
    for matrix in matrices:
        y = matrix.of(x)
        if matrix.left:
            q = square(bases, matrix.left)
            y = (q if back else q.mT) @ y
        if matrix.right:
            q = square(bases, matrix.right)
            y = y @ (q.mT if back else q)
        found[..., matrix.place] = y.flatten(-2)
    return found


def eigenvectors(product: Tensor) -> Tensor:
    """Of symmetric matrices (..., n, n), the largest eigenvalue's first; the identity where not all is finite."""
    alive, fit = break_ties(product)
    found = torch.linalg.eigh(fit).eigenvectors.flip(-1)
    return torch.where(alive, found, torch.eye(product.shape[-1]).to(product))


def power_iterate(product: Tensor, basis: Tensor) -> Tensor:
    """A step of the power method from a basis, (..., n, n), made orthogonal again."""
    alive, fit = break_ties(product)
    found = torch.linalg.qr(fit @ basis).Q
    return torch.where(alive, found, torch.eye(product.shape[-1]).to(product))


def break_ties(product: Tensor) -> tuple[Tensor, Tensor]:
    """Which matrices are finite, (..., 1, 1), and all of them with ties broken, the identity in place of the others:
    decompositions of a batch raise for all of it where one has NaN."""
    n = product.shape[-1]
    mean = product.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    tilted = product + TILT * mean * torch.linspace(1.0, 2.0, n).to(product).diag()
    alive = tilted.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return alive, torch.where(alive, tilted, torch.eye(n).to(product))


def square(x: Tensor, side: slice) -> Tensor:
    """A square matrix that lies in x, (..., K): a view."""
    n = math.isqrt(side.stop - side.start)
    return x[..., side].unflatten(-1, (n, n))


TILT = 1e-6
"""What is added to a diagonal, in units of its mean."""

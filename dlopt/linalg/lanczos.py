"""The Lanczos process: a symmetric matrix in a Krylov space, from products with vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.linalg.conjugate_gradients import Product
from dlopt.linalg.symmetric import eigh_or_nan


class RitzPairs(NamedTuple):
    """Approximate eigenvalues and eigenvectors from a Krylov space, in ascending order.

    values      (..., k), eigenvalues of T
    vectors     (..., k, P), orthonormal rows
    residuals   (..., k), |A y - value y|: an eigenvalue of A lies within this distance
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


class Quadrature(NamedTuple):
    """A Gauss quadrature of q'f(A)q for a unit vector q; the nodes are Ritz values in ascending order.

    nodes       (..., k)
    weights     (..., k), their sum is 1
    residuals   (..., k), an eigenvalue of A lies within this distance of the node
    """

    nodes: Tensor
    weights: Tensor
    residuals: Tensor


class Tridiagonal(NamedTuple):
    """A = Q'TQ on the Krylov space, for orthonormal rows Q: the matrix T = tridiag(beta, alpha, beta).

    alpha   (..., k), diagonal
    beta    (..., k - 1), above and below the diagonal
    basis   (..., k, P), the rows of Q; the first is the direction of the start
    rest    (...), the next beta: how far A leads out of the space
    """

    alpha: Tensor
    beta: Tensor
    basis: Tensor
    rest: Tensor

    def matrix(self) -> Tensor:
        """Return T, (..., k, k)."""
        off = torch.diag_embed(self.beta, 1)
        return torch.diag_embed(self.alpha) + off + off.mT

    def ritz_pairs(self) -> RitzPairs:
        """Return the eigenpairs of T, mapped to vectors (..., P)."""
        values, vectors = eigh_or_nan(self.matrix())
        return RitzPairs(values, vectors.mT @ self.basis, self._compute_residuals(vectors))

    def quadrature(self, dtype: torch.dtype | None = None) -> Quadrature:
        """Return the Gauss quadrature of q'f(A)q, q the first row of the basis, from the eigenpairs of T in this dtype.

        The nodes are the Ritz values, the weights the squared first entries of the eigenvectors of T. For a random
        start, the mean over starts of q'f(A)q is the mean of f over the eigenvalues of A, so the nodes are a density of
        them. The quadrature is exact for polynomials of degree 2 k - 1.

        Source: Golub and Welsch 1969; Ghorbani, Krishnan and Xiao 2019, section 2.
        """
        values, vectors = eigh_or_nan(self.matrix().to(dtype or self.alpha.dtype))
        return Quadrature(values, vectors[..., 0, :].square(), self._compute_residuals(vectors))

    def _compute_residuals(self, vectors: Tensor) -> Tensor:
        """Return |A y - value y|, (..., k), for the eigenvectors of T, (..., k, k): the last entries times `rest`."""
        return self.rest.unsqueeze(-1) * vectors[..., -1, :].abs()


def tridiagonalize(product: Product, start: Tensor, steps: int) -> Tridiagonal:
    """Return T and Q after k = min(steps, P) products, from start vectors (..., P) that are not zero.

        u = A q_i - alpha_i q_i - beta_(i-1) q_(i-1),   q_(i+1) = u / |u|,   beta_i = |u|

    u is orthogonalized against all rows twice: otherwise rounding brings copies of eigenvalues that have converged. If
    u vanishes, the rows span an invariant space; beta_i is zero and a random direction continues.

    Source: Golub and Van Loan 2013, sections 10.1 and 10.3.
    """
    k = min(steps, start.shape[-1])
    basis = start.new_zeros(*start.shape[:-1], k, start.shape[-1])
    alpha, beta = start.new_zeros(*start.shape[:-1], k), start.new_zeros(*start.shape[:-1], k - 1)
    basis[..., 0, :] = start / start.norm(dim=-1, keepdim=True)
    scale = start.new_zeros(*start.shape[:-1], 1)
    for i in range(k):
        q = basis[..., i, :]
        u = product(q)
        alpha[..., i] = (u * q).sum(-1)
        scale = torch.maximum(scale, u.norm(dim=-1, keepdim=True))
        u = _orthogonalize(u, basis[..., : i + 1, :])
        norm = u.norm(dim=-1, keepdim=True)
        if i == k - 1:
            break
        vanishes = norm <= 10 * k * torch.finfo(u.dtype).eps * scale
        if vanishes.any():
            random = prng.normal(prng.key(0, "lanczos", i), u.shape[-1:], u.device).to(u.dtype)
            other = _orthogonalize(random.expand_as(u), basis[..., : i + 1, :])
            u = torch.where(vanishes, other, u)
        beta[..., i] = norm.masked_fill(vanishes, 0.0).squeeze(-1)
        basis[..., i + 1, :] = u / u.norm(dim=-1, keepdim=True)
    return Tridiagonal(alpha, beta, basis, norm.squeeze(-1))


def _orthogonalize(u: Tensor, basis: Tensor) -> Tensor:
    """Return u, (..., P), without its parts along orthonormal rows (..., i, P)."""
    for _ in range(2):
        u = u - (basis.mT @ (basis @ u.unsqueeze(-1))).squeeze(-1)
    return u

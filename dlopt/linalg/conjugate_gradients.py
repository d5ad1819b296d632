"""Conjugate gradients, for one linear system or a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix A (..., P, P) as the function v -> A v of vectors (..., P)."""


class Solution(NamedTuple):
    """The end of conjugate gradients.

    x            (..., P)
    residual     (...), |b - A x| / |b|
    iterations   (...), products with A until it ended
    is_convex    (...), whether no direction of negative curvature ended it
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    is_convex: Tensor


def solve(product: Product, b: Tensor, *, tolerance: float | Tensor, max_iterations: int) -> Solution:
    """Solve A x = b for b of shape (..., P), from x = 0.

        a = r'r / d'Ad,   x <- x + a d,   r <- r - a A d,   d <- r + (r'r / former r'r) d

    A system ends when |r| <= tolerance |b|, after max_iterations, or when d'Ad <= 0: then x is as it was, or b itself
    at the first iteration. Each product is of all systems; one that has ended does not change. If b is not finite, x is
    NaN. tolerance may be a (..., 1) column.

    With A positive definite, x minimizes x'Ax / 2 - b'x over the Krylov space of b after each iteration. In exact
    arithmetic it ends after at most as many iterations as A has different eigenvalues.

    Source: Nocedal and Wright 2006, algorithms 5.2 and 7.1.
    """
    x, r, d = torch.zeros_like(b), b.clone(), b.clone()
    rr = _dot(r, r)
    limit, start = tolerance * tolerance * rr, rr
    active = rr > limit
    is_convex, iterations = torch.ones_like(active), torch.zeros_like(active, dtype=torch.int64)
    for i in range(max_iterations):
        if not active.any():
            break
        ad = product(d)
        curvature = _dot(d, ad)
        iterations += active
        ends = active & ~(curvature > 0)
        is_convex &= ~ends
        active &= ~ends
        if i == 0:
            x = torch.where(ends, b, x)
        step = torch.where(active, rr / curvature, 0.0)
        x.addcmul_(step, d)
        r.addcmul_(step, ad, value=-1.0)
        new = torch.where(active, _dot(r, r), rr)
        d = torch.where(active, torch.addcmul(r, new / rr, d), d)
        rr = new
        active &= rr > limit
    x = x.masked_fill(~start.isfinite(), torch.nan)
    residual = (rr / start).sqrt().masked_fill(start == 0, 0.0)
    return Solution(x, *(t.squeeze(-1) for t in (residual, iterations, is_convex)))


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Return inner products, (..., 1)."""
    return (x * y).sum(-1, keepdim=True)

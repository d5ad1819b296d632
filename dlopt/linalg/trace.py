"""Estimates of the trace and the diagonal of a symmetric matrix, from products with random vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.linalg.conjugate_gradients import Product
from dlopt.prng import Key


class Estimate(NamedTuple):
    """An unbiased estimate.

    value   the mean over random vectors
    error   its standard error, of the shape of value; NaN for a single random vector
    """

    value: Tensor
    error: Tensor


def estimate_trace(product: Product, like: Tensor, probes: int, key: Key) -> Estimate:
    """Return Hutchinson's estimate of the trace of A, (...), from as many products as probes.

        tr A = E v'Av,   entries of v: 1 or -1 with equal probability

    It is exact for a diagonal matrix. The variance is 2 sum over i != j of A_ij^2 / probes. like, (..., P), has the
    shape, type and device of the vectors. A key of one run gives all lanes the same vectors.

    Source: Hutchinson 1990, A stochastic estimator of the trace of the influence matrix.
    """
    return _average((v * product(v)).sum(-1) for v in _draw_vectors(key, like, probes))


def estimate_trace_hutch_plus_plus(product: Product, like: Tensor, products: int, key: Key) -> Estimate:
    """Return the Hutch++ estimate of the trace of A, (...), from 3 k products, k = products // 3.

        Q = qr(A S),   tr A = tr Q'AQ + E v'(I - QQ') A (I - QQ') v,   S: k random vectors

    It takes the trace exactly on a space of the large eigenvalues, and estimates only the remainder. So it is exact for
    matrices of rank k or less. For a positive semidefinite A, a relative error eps needs 1 / eps products in place of
    Hutchinson's 1 / eps^2. error is that of the second term. Raises ValueError for fewer than 3 products.

    Source: Meyer, Musco, Musco and Woodruff 2021, algorithm 1.
    """
    if products < 3:
        raise ValueError(f"Hutch++ needs at least 3 products, got {products}")
    k = products // 3
    images = [product(v) for v in _draw_vectors(prng.fold_in(key, "space"), like, min(k, like.shape[-1]))]
    columns = torch.linalg.qr(torch.stack(images, -1)).Q
    exact = sum((q * product(q)).sum(-1) for q in columns.unbind(-1))

    def project(v: Tensor) -> Tensor:
        return v - (columns @ (columns.mT @ v.unsqueeze(-1))).squeeze(-1)

    remainders = (project(v) for v in _draw_vectors(prng.fold_in(key, "remainder"), like, k))
    rest = _average((v * product(v)).sum(-1) for v in remainders)
    return Estimate(exact + rest.value, rest.error)


def estimate_diagonal(product: Product, like: Tensor, probes: int, key: Key) -> Estimate:
    """Return an estimate of the diagonal of A, (..., P), from as many products as probes.

        diag A = E v * Av,   entries of v: 1 or -1 with equal probability

    It is exact for a diagonal matrix. The variance of entry i is the sum over j != i of A_ij^2 / probes. For vectors of
    1 and -1 the denominator of the source, the sum of v * v, is the number of probes. like and key: see estimate_trace.

    Source: Bekas, Kokiopoulou and Saad 2007, An estimator for the diagonal of a matrix, equation 5.
    """
    return _average(v * product(v) for v in _draw_vectors(key, like, probes))


def _draw_vectors(key: Key, like: Tensor, count: int) -> Iterator[Tensor]:
    """Yield vectors (..., P) of 1 and -1."""
    for i in range(count):
        yield prng.rademacher(prng.fold_in(key, i), like.shape[-1:], like.device).to(like.dtype).expand_as(like)


def _average(terms: Iterator[Tensor]) -> Estimate:
    """Return the mean of tensors of one shape, and its standard error, in one pass."""
    mean, count = next(terms), 1
    squares = torch.zeros_like(mean)
    for count, term in enumerate(terms, 2):
        change = term - mean
        mean = mean + change / count
        squares = squares + change * (term - mean)
    error = (squares / (count * (count - 1))).sqrt() if count > 1 else torch.full_like(mean, torch.nan)
    return Estimate(mean, error)

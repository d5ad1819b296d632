"""Estimates of the diagonal of a symmetric matrix, from products with random vectors."""

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


def estimate_diagonal(product: Product, like: Tensor, probes: int, key: Key) -> Estimate:
    """Return an estimate of the diagonal of A, (..., P), from as many products as probes.

        diag A = E v * Av,   entries of v: 1 or -1 with equal probability

    It is exact for a diagonal matrix. The variance of entry i is the sum over j != i of A_ij^2 / probes. For vectors of
    1 and -1 the denominator of the source, the sum of v * v, is the number of probes. like, (..., P), has the shape,
    type and device of the vectors. A key of one run gives all lanes the same vectors.

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

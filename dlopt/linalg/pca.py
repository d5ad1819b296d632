"""Principal component analysis."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.storage import memory


class PrincipalAxes(NamedTuple):
    """The mean (*shape,) of the examples, orthonormal columns directions (D, D), and the variances (D,) along them.

    All in float64, the largest variance first. A variance within rounding of zero is zero.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor


class _Scatter(NamedTuple):
    """The number of examples, their mean, (*shape), and their covariance, (D, D)."""

    examples: int
    mean: Tensor
    covariance: Tensor


def principal_axes(chunks: Iterable[Tensor]) -> PrincipalAxes:
    """Return the principal axes of examples in chunks (n, *shape) as vectors of length D: C = U diag(variances) U^T.

    C = (1/N) sum (x - mean)(x - mean)^T. The sign of an eigenvector depends on the version of LAPACK, so the largest
    entry of each direction in absolute value is made positive. Raises NotEnoughMemoryError if D is too large.
    """
    count, mean, covariance = reduce(_merge, map(_measure, chunks))
    variances, directions = torch.linalg.eigh(covariance)
    variances, directions = variances.flip(0), directions.flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    rounding = max(count, len(covariance)) * torch.finfo(covariance.dtype).eps * variances[0]
    return PrincipalAxes(mean, directions * largest.sign(), variances.masked_fill(variances <= rounding, 0.0))


def _measure(inputs: Tensor) -> _Scatter:
    count, features = len(inputs), inputs.shape[1:].numel()
    memory.check(8 * (2 * count * features + 6 * features**2), f"the covariance of {features} features")
    x = inputs.double()
    mean = x.mean(0)
    x = (x - mean).flatten(1)
    return _Scatter(count, mean, x.mT @ x / count)


def _merge(one: _Scatter, other: _Scatter) -> _Scatter:
    """Return the mean and the covariance of two sets of examples together."""
    count = one.examples + other.examples
    a, b, shift = one.examples / count, other.examples / count, (other.mean - one.mean).flatten()
    covariance = a * one.covariance + b * other.covariance + a * b * shift.outer(shift)
    return _Scatter(count, one.mean + b * (other.mean - one.mean), covariance)


def inverse_roots(variances: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(variance + eps max variance) for each axis, and zero for axes without variance."""
    damped = (variances + eps * variances[0]).rsqrt()
    return damped.masked_fill(variances == 0, 0.0)


def transform(inputs: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Return (x - mean)^T M for each example as a vector, in the shape of the example."""
    return ((inputs - mean).flatten(1) @ matrix).view(inputs.shape)

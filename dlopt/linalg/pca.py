"""Principal component analysis."""

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


def principal_axes(inputs: Tensor) -> PrincipalAxes:
    """Return the principal axes of inputs (N, *shape) as vectors of length D: C = U diag(variances) U^T.

    C = (1/N) sum (x - mean)(x - mean)^T. The sign of an eigenvector depends on the version of LAPACK, so the largest
    entry of each direction in absolute value is made positive. Raises NotEnoughMemoryError if D is too large.
    """
    count, features = len(inputs), inputs.shape[1:].numel()
    memory.check(8 * (2 * count * features + 6 * features**2), f"the covariance of {features} features")
    x = inputs.double()
    mean = x.mean(0)
    x = (x - mean).flatten(1)
    variances, directions = torch.linalg.eigh(x.mT @ x / len(x))
    variances, directions = variances.flip(0), directions.flip(1)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    rounding = max(x.shape) * torch.finfo(x.dtype).eps * variances[0]
    return PrincipalAxes(mean, directions * largest.sign(), variances.masked_fill(variances <= rounding, 0.0))


def inverse_roots(variances: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(variance + eps max variance) for each axis, and zero for axes without variance."""
    damped = (variances + eps * variances[0]).rsqrt()
    return damped.masked_fill(variances == 0, 0.0)


def transform(inputs: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Return (x - mean)^T M for each example as a vector, in the shape of the example."""
    return ((inputs - mean).flatten(1) @ matrix).view(inputs.shape)

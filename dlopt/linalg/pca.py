"""Principal axes of data: the directions in which its features vary together, and by how much."""

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.storage import memory


class PrincipalAxes(NamedTuple):
    """mean (*shape,) of the examples, directions (D, D) whose columns are orthonormal, variances (D,) along them.

    The largest variance comes first, and what rounding alone makes of none is zero. All in float64.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor


def principal_axes(inputs: Tensor) -> PrincipalAxes:
    """Return the principal axes of inputs (N, *shape), taken as vectors of length D: C = U diag(variances) U^T.

    C = (1/N) sum (x - mean)(x - mean)^T. The entry of each direction that is largest in size is positive, because the
    sign of an eigenvector is arbitrary and depends on the version of LAPACK. Raises NotEnoughMemoryError if D is too
    large.
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
    """1 / sqrt(variance + eps max variance) along each axis, and zero along those without variance."""
    damped = (variances + eps * variances[0]).rsqrt()
    return damped.masked_fill(variances == 0, 0.0)


def transform(inputs: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """(x - mean)^T M for each example as a vector, in the shape that it had."""
    return ((inputs - mean).flatten(1) @ matrix).view(inputs.shape)

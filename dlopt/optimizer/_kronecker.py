"""Kronecker factors: square matrices that lie one after the other in a vector of each run."""

import math
from typing import Any

from torch import Tensor


def view_square(x: Tensor, side: slice) -> Tensor:
    """Return the view of a slice of x, (..., K), as square matrices."""
    n = math.isqrt(side.stop - side.start)
    return x[..., side].unflatten(-1, (n, n))


def align(value: float | Tensor, like: Tensor) -> Any:
    """Return a number or an (E, 1) column as a factor of matrices (..., n, n)."""
    return value.unsqueeze(-1).to(like.dtype) if isinstance(value, Tensor) else value

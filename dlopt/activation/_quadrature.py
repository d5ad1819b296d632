"""Expectations under the standard normal distribution, by quadrature."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_STEP = 0.1


def mean_square(f: Callable[[Tensor], Tensor]) -> float:
    """Return E[f(z)^2] for z ~ N(0, 1) to twelve digits, for f of float64 tensors, smooth except at 0.

    The trapezoidal rule on each side of 0 in s = log |z| converges exponentially, for functions that change within a
    millionth and for functions that change slowly.
    """
    z = torch.arange(-40.0, 3.5, _STEP, dtype=torch.float64).exp()
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return float(((f(z) ** 2 + f(-z) ** 2) * density * z).sum()) * _STEP

"""The normal distribution between two limits."""

import math

import torch
from torch import Tensor

LIMIT = 2.0
"""Standard deviations at which the truncated normal distribution ends."""

_INSIDE = math.erf(LIMIT / math.sqrt(2.0))
TRUNCATED_STD = math.sqrt(1.0 - 2.0 * LIMIT * math.exp(-LIMIT * LIMIT / 2.0) / (math.sqrt(2.0 * math.pi) * _INSIDE))
"""Standard deviation of N(0, 1) after the truncation: 0.8796."""


def sample_truncated_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Sample N(0, 1) under the condition |z| <= 2, float64, by the inverse of its distribution function."""
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    bound = torch.special.ndtr(torch.tensor(LIMIT, dtype=torch.float64))
    return torch.special.ndtri(torch.lerp(1.0 - bound, bound, u))

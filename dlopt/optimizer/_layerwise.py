"""Ratios of norms by which layer-wise optimizers scale the step of each weight tensor."""

import torch
from torch import Tensor


def compute_norm(x: Tensor) -> Tensor:
    """Return the Euclidean norms, (..., 1), of vectors (..., n)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def divide_norms(norm: Tensor, divisor: Tensor) -> Tensor:
    """Return norm / divisor, 1 where one of them is zero: weights of zero would never change, else."""
    return torch.where((norm > 0) & (divisor > 0), norm / divisor, 1.0)

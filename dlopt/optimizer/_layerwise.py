"""Norms of parameters and their ratios, by which layer-wise optimizers scale the step of each parameter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dlopt.base.layout import Parameter


def compute_norms(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the Euclidean norms, (..., K), of K vectors (..., n); like, (..., P), has their leading dimensions."""
    return join([torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in parts], like)


def compute_rms(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the root mean squares, (..., K), of K vectors (..., n)."""
    return join([torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5 for x in parts], like)


def join(columns: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return columns (..., 1) as (..., K), where K may be 0."""
    return torch.cat([like.new_zeros(*like.shape[:-1], 0), *columns], dim=-1)


def select(x: Tensor, parameters: Sequence[Parameter]) -> list[Tensor]:
    """Return the parts of x, (..., P), that belong to parameters."""
    return [x[..., p.slice] for p in parameters]


def divide_norms(norms: Tensor, divisors: Tensor) -> Tensor:
    """Return norms / divisors, 1 where either is zero: otherwise, weights of zero would never change."""
    return torch.where((norms > 0) & (divisors > 0), norms / divisors, 1.0)

"""Symmetric matrices of lanes: one that is not finite must not stop the others."""

import torch
from torch import Tensor


def eigh_or_nan(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (..., n), in ascending order, and eigenvectors (..., n, n) as columns.

    Those of a matrix that is not finite are NaN, where torch.linalg.eigh raises an error for all.
    """
    finite = a.isfinite().all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, a, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)))
    return values.masked_fill(~finite.squeeze(-1), torch.nan), vectors

"""Random orthogonal matrices, uniform under Haar's measure."""

import torch
from torch import Tensor


def sample_orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns), float64: with rows <= columns the rows are orthonormal, else the columns.

    The orthogonal factor of a Gaussian matrix, each column times the sign of R's diagonal entry: without that the sign
    would be the factorization's convention, and the matrix not uniform (Mezzadri 2007).
    """
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(tall)
    q *= r.diagonal().sign()
    return q if rows >= columns else q.T

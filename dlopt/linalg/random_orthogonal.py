"""Random orthogonal matrices, uniform under Haar's measure."""

import torch
from torch import Tensor, nn


def sample_orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a (rows, columns) matrix in float64 with orthonormal rows if rows <= columns, else orthonormal columns.

    torch draws it transposed, and thus other numbers, if there are more columns.
    """
    tall = torch.empty(max(rows, columns), min(rows, columns), dtype=torch.float64)
    nn.init.orthogonal_(tall, generator=generator)
    return tall if rows >= columns else tall.T

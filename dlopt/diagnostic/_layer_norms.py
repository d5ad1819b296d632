"""Norms of the layers of a weight vector."""

import torch
from torch import Tensor

from dlopt.base.layout import Layout


def compute_layer_norms(x: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Return the Euclidean norm over the weights and biases of each layer, (...), by the layer's label."""
    return {layout.label(name): _compute_norm(x, slices) for name, slices in layout.layers().items()}


def _compute_norm(x: Tensor, slices: list[slice]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(x[..., s], dim=-1) for s in slices]).square().sum(0).sqrt()

"""Norms of gradients and updates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.diagnostic._layer_norms import compute_layer_norms
from dlopt.parts import Diagnostic, StepRecord


@dataclass(frozen=True)
class Gradients(Diagnostic):
    """Norms of the gradient and of the update, in total and by layer.

        gradient/norm             |g|, Euclidean
        gradient/norm/<layer>     norm over the weights and biases of a layer
        gradient/cosine           cosine between this gradient and the one measured before
        update/ratio/<layer>      |w_new - w_old| / |w_old|; about 1e-3 is healthy, 0 if w_old is 0

    Layers of an nn.Sequential are numbered without what is between them, so a layer has the same name with and without
    normalization and dropout; hidden.0.norm is the normalization of hidden.0.

    The gradient is of loss and penalties, before clipping and noise, which the ratios include.

    Cost: two passes over the weights per measurement.

    Measured on one core: 0.5 ms and 4.3 ms, 0.5% and 0.5% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).
    """

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        g, before = record.gradient, record.before
        moved = record.after - before
        norm = torch.linalg.vector_norm(g, dim=-1)
        tags = {"gradient/norm": norm}
        if memory is not None:
            scale = norm * torch.linalg.vector_norm(memory, dim=-1)
            tags["gradient/cosine"] = torch.where(scale > 0, (g * memory).sum(-1) / scale, 0.0)
        norms, sizes, lengths = (compute_layer_norms(x, record.layout) for x in (g, before, moved))
        for layer, size in sizes.items():
            tags[f"gradient/norm/{layer}"] = norms[layer]
            tags[f"update/ratio/{layer}"] = torch.where(size > 0, lengths[layer] / size, 0.0)
        return tags, g.clone()

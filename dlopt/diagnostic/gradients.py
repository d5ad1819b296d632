"""Norms of gradients and updates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.parts import Diagnostic, StepRecord


@dataclass(frozen=True)
class Gradients(Diagnostic):
    """How large the gradient is, as a whole and by layer, and how far a step moves each layer.

        gradient/norm             |g|, Euclidean
        gradient/norm/<layer>     the same over one layer's weights and biases
        gradient/cosine           cosine between this gradient and the one measured before
        update/ratio/<layer>      |w_new - w_old| / |w_old|; about 1e-3 is healthy, 0 where w_old is 0

    The gradient is that of loss and penalties, before it is clipped or noise is added; what a step made of it is in the
    ratios.

    Cost: two passes over the weights at each measurement.
    """

    def measure(self, moment: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        g, before = moment.gradient, moment.before
        moved = moment.after - before
        norm = torch.linalg.vector_norm(g, dim=-1)
        found = {"gradient/norm": norm}
        if memory is not None:
            scale = norm * torch.linalg.vector_norm(memory, dim=-1)
            found["gradient/cosine"] = torch.where(scale > 0, (g * memory).sum(-1) / scale, 0.0)
        for name, slices in moment.layout.layers().items():
            found[f"gradient/norm/{name}"] = _norm(g, slices)
            size = _norm(before, slices)
            found[f"update/ratio/{name}"] = torch.where(size > 0, _norm(moved, slices) / size, 0.0)
        return found, g.clone()


def _norm(x: Tensor, slices: list[slice]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(x[..., s], dim=-1) for s in slices]).square().sum(0).sqrt()

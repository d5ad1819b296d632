"""Norms of the weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.diagnostic._layer_norms import compute_layer_norms
from dlopt.parts import Diagnostic, StepRecord


@dataclass(frozen=True)
class WeightNorms(Diagnostic):
    """Euclidean norms of the weights after the step, in total and by layer.

        weight/norm           |w|
        weight/norm/<layer>   norm over the weights and biases of a layer

    Layers are named as by diagnostic=gradients.

    Cost: one pass over the weights per measurement.

    Measured on one core: 0.2 ms and 0.7 ms, 0.2% and 0.1% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).
    """

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        w = record.after
        layers = {f"weight/norm/{name}": norm for name, norm in compute_layer_norms(w, record.layout).items()}
        return {"weight/norm": torch.linalg.vector_norm(w, dim=-1)} | layers, None

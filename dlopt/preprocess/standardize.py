"""Standardization."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standardize:
    """x <- (x - mu) / sigma for each feature, mu and sigma (divided by N) over the training split alone.

    A feature that is constant in training is only centred.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        sigma, mu = torch.std_mean(inputs.double(), dim=0, correction=0)
        constant = sigma <= 1e-7 * mu.abs().clamp(min=1e-30)  # what rounding alone makes of a constant in float32
        return {"mu": mu.to(inputs.dtype), "sigma": sigma.masked_fill(constant, 1.0).to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return (inputs - statistics["mu"]) / statistics["sigma"]

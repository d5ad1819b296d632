"""Mean and standard deviation of data, safe for constant features."""

import torch
from torch import Tensor


def mean_and_std(inputs: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mu and sigma (divided by N) over dims, which stay with size 1. sigma is 1 for constants."""
    sigma, mu = torch.std_mean(inputs.double(), dim=dims, correction=0, keepdim=True)
    constant = sigma <= 1e-7 * mu.abs().clamp(min=1e-30)  # a constant in float32 deviates by rounding
    return mu.to(inputs.dtype), sigma.masked_fill(constant, 1.0).to(inputs.dtype)

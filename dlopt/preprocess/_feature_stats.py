"""Mean and standard deviation of data, where what does not vary must not divide by zero."""

import torch
from torch import Tensor


def mean_and_std(inputs: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """mu and sigma (divided by N) over these dimensions, which stay with size 1; sigma is 1 where it should be 0."""
    sigma, mu = torch.std_mean(inputs.double(), dim=dims, correction=0, keepdim=True)
    constant = sigma <= 1e-7 * mu.abs().clamp(min=1e-30)  # what rounding alone makes of a constant in float32
    return mu.to(inputs.dtype), sigma.masked_fill(constant, 1.0).to(inputs.dtype)

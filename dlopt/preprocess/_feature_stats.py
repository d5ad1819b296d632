"""Statistics of features in one pass over chunks of examples, in float64; the padding of series is left out."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.sequences import is_padded_series, mask_steps


class Moments(NamedTuple):
    """The number of examples, and the mean and standard deviation (divided by N) of each feature."""

    examples: int
    mean: Tensor
    sigma: Tensor


def mean(chunks: Iterable[Tensor]) -> Tensor:
    """Return the mean over the examples, (*shape)."""
    means = ((len(x), _measure_padded(x, (0,))[0][0] if is_padded_series(x) else x.double().mean(0)) for x in chunks)
    return reduce(_merge_means, means)[1]


def mean_and_std(chunks: Iterable[Tensor], *, of_channels: bool = False) -> tuple[Tensor, Tensor]:
    """Return mu and sigma (divided by N) of each feature, (*shape), or of each channel, (channels, 1, ...).

    sigma is 1 for constants.
    """

    def measure(x: Tensor) -> Moments:
        dims = (0, *range(2, x.ndim)) if of_channels else (0,)
        if is_padded_series(x):
            mu, sigma = _measure_padded(x, dims)
        else:
            sigma, mu = torch.std_mean(x.double(), dim=dims, correction=0, keepdim=True)
        return Moments(len(x), mu[0], sigma[0])

    _, mu, sigma = reduce(_merge, map(measure, chunks))
    constant = sigma <= 1e-7 * mu.abs().clamp(min=1e-30)  # a constant in float32 deviates by rounding
    return mu, sigma.masked_fill(constant, 1.0)


def _measure_padded(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mu and sigma over these dimensions of padded series, all of one chunk; zeros where all is padding."""
    mask = mask_steps(x).unsqueeze(1).expand_as(x)
    count = mask.sum(dims, keepdim=True).clamp(min=1)
    mu = torch.where(mask, x.double(), 0.0).sum(dims, keepdim=True) / count
    sigma = (torch.where(mask, x.double() - mu, 0.0).square().sum(dims, keepdim=True) / count).sqrt()
    return mu, sigma


def _merge_means(one: tuple[int, Tensor], other: tuple[int, Tensor]) -> tuple[int, Tensor]:
    count = one[0] + other[0]
    return count, one[1] + (other[1] - one[1]) * (other[0] / count)


def _merge(one: Moments, other: Moments) -> Moments:
    """Return the moments of two sets of examples together (Chan, Golub and LeVeque 1983, equation 2.1)."""
    count, mu = _merge_means(one[:2], other[:2])
    a, b, shift = one.examples / count, other.examples / count, other.mean - one.mean
    return Moments(count, mu, (a * one.sigma**2 + b * other.sigma**2 + a * b * shift**2).sqrt())

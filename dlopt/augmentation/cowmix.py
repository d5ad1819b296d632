"""CowMix: irregular patches of noise or of another image."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.augmentation._intervals import check_intervals
from dlopt.augmentation._mixing import choose_partners, mix
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Probability


@dataclass(frozen=True)
class CowMix(Augmentation):
    """Fills irregular patches of each image, like those of a cow, with noise or another image.

        n ~ N(0, 1) for each pixel, smoothed with a Gaussian of standard deviation s, zeros beyond the edge
        m = 1 where n <= mean(n) + sd(n) sqrt(2) erfinv(2p - 1), else 0;  mean and sd over the pixels of the image
        x' = m x + (1 - m) z,   and with another image  y' = mean(m) y + (1 - mean(m)) y_z

    For each image, log s is drawn uniformly from log sigma_low to log sigma_high, and p from p_low to p_high. The kept
    fraction mean(m) varies around p and is on average slightly closer to 0.5, because noise this smooth is not quite
    normal within an image (p = 0.2, with s half the width, keeps 0.24). The targets are mixed by the actual mean(m).

    sigma_low    minimum s, in pixels
    sigma_high   maximum s
    p_low        minimum p, the fraction of an image that is kept
    p_high       maximum p
    blend        content z of the patches. noise: normal, with the mean and standard deviation of each channel in this
                 mini-batch, so that it suits data of any scale (in the paper, mean 0 for standardized data). image: the
                 image at the same position of the permuted mini-batch, which may be the image itself

    Raises ValueError if a minimum exceeds its maximum.

    Source: French, Oliver and Salimans 2020, "Milking CowMask for semi-supervised image classification", algorithm 1.
    There, the mask is 1 where the image is replaced, and unlabelled images and the outputs of a teacher are mixed.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    sigma_low: Positive
    sigma_high: Positive
    p_low: Probability
    p_high: Probability
    blend: Literal["noise", "image"]

    def __post_init__(self) -> None:
        check_intervals(self, "sigma", "p")

    @property
    def mixes(self) -> bool:
        return self.blend == "image"

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        batch, _, height, width = inputs.shape
        u = prng.uniform(prng.fold_in(key, "image"), (3, batch), inputs.device).to(inputs.dtype)
        sigma = self.sigma_low * (self.sigma_high / self.sigma_low) ** u[0]
        p = self.p_low + (self.p_high - self.p_low) * u[1]
        mask = make_mask(sample_noise(prng.fold_in(key, "mask"), (batch, height, width), inputs), sigma, p)
        if self.blend == "noise":
            return torch.lerp(_noise_like(inputs, prng.fold_in(key, "noise")), inputs, mask.unsqueeze(1)), targets
        return mix(inputs, targets, choose_partners(u[2]), mask.unsqueeze(1), mask.mean((-2, -1)))


def sample_noise(key: Key, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draw nearly standard normal numbers from 256 values, the midpoints of equally likely intervals.

    One random byte per number, without an inverse distribution function, is three times as fast. Smoothing removes the
    steps; as an image, the noise has 8 bits.
    """
    count = math.prod(shape)
    octets = prng.bits(key, (-(-count // 4),), like.device).view(torch.uint8)[:count]
    return _values(like.dtype, str(like.device)).index_select(0, octets.int()).view(shape)


@lru_cache(maxsize=8)
def _values(dtype: torch.dtype, device: str) -> Tensor:
    """Return the values of `sample_noise`, scaled to variance 1 because they lack tails."""
    values = torch.erfinv((torch.arange(256, dtype=torch.float64) - 127.5) / 128)
    return (values / values.square().mean().sqrt()).to(device, dtype)


def make_mask(noise: Tensor, sigma: Tensor, p: Tensor) -> Tensor:
    """Make CowMasks, 1 where a pixel is kept, from noise (B, height, width) for sigma and p of shape (B,)."""
    height, width = noise.shape[-2:]
    across = _smoothing(width, sigma)
    down = across if height == width else _smoothing(height, sigma)
    n = (down @ noise @ across).flatten(-2)
    n = n.sub_(n.mean(-1, keepdim=True))
    # torch.std takes 20 times as long
    sd = torch.linalg.vector_norm(n, dim=-1, keepdim=True) / math.sqrt(height * width)
    threshold = sd * math.sqrt(2.0) * torch.erfinv(2.0 * p - 1.0).unsqueeze(-1)
    return (n <= threshold).to(noise.dtype).unflatten(-1, (height, width))


def _smoothing(length: int, sigma: Tensor) -> Tensor:
    """Return matrices (B, length, length) that smooth an axis with a Gaussian, unnormalized: exp(-(i - j)^2 / 2s^2)."""
    distance = torch.arange(1 - length, length, dtype=sigma.dtype, device=sigma.device)
    weights = (-0.5 * (distance / sigma.unsqueeze(-1)).square()).exp()
    return weights.unfold(-1, length, 1).flip(-2)


def _noise_like(inputs: Tensor, key: Key) -> Tensor:
    """Draw noise of the shape of the inputs, with the mean and standard deviation of each channel."""
    mean = inputs.mean((0, 2, 3), keepdim=True)
    sd = (inputs - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
    return sample_noise(key, tuple(inputs.shape), inputs).mul_(sd).add_(mean)

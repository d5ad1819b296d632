"""CowMix: irregular patches of noise, or of another image."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Range

Probability = Annotated[float, Range(ge=0, le=1)]


@dataclass(frozen=True)
class CowMix(Augmentation):
    """Keeps each image in irregular patches, like those of a cow, and fills the rest with noise or another image.

        n ~ N(0, 1) for each pixel, smoothed with a Gaussian of standard deviation s, zeros beyond the edge
        m = 1 where n <= mean(n) + sd(n) sqrt(2) erfinv(2p - 1), else 0;  mean and sd over the pixels of the image
        x' = m x + (1 - m) z,   and with another image  y' = mean(m) y + (1 - mean(m)) y_z

    log s is uniform between log sigma_low and log sigma_high, p between p_low and p_high, anew for each image. The
    share that is kept, mean(m), varies about p, and on average lies a little nearer to a half: noise this smooth is
    not quite normal within an image (p = 0.2, with s half the width, keeps 0.24). The targets are mixed by the share
    that is really kept.

    sigma_low    the least s, in pixels
    sigma_high   the largest
    p_low        the least p, the share of an image that is kept
    p_high       the largest
    blend        what z is. noise: normal, with the mean and the standard deviation that each channel has in this
                 mini-batch, so that it suits data of any scale (the paper's has mean 0, for standardized data).
                 image: the image at the same place of the mini-batch in a random order, now and then the image itself

    ValueError where a least value exceeds the largest.

    Source: French, Oliver and Salimans 2020, "Milking CowMask for semi-supervised image classification", algorithm 1,
    whose mask is 1 where the image is not kept; there unlabelled images are mixed, and the outputs of a teacher.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    sigma_low: Positive
    sigma_high: Positive
    p_low: Probability
    p_high: Probability
    blend: Literal["noise", "image"]

    def __post_init__(self) -> None:
        for name in ("sigma", "p"):
            low, high = (getattr(self, f"{name}_{end}") for end in ("low", "high"))
            if low > high:
                raise ValueError(f"{name}_low must be at most {name}_high, got {low:g} and {high:g}")

    @property
    def mixes(self) -> bool:
        return self.blend == "image"

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        batch, _, height, width = inputs.shape
        u = prng.uniform(prng.fold_in(key, "image"), (3, batch), inputs.device).to(inputs.dtype)
        sigma = self.sigma_low * (self.sigma_high / self.sigma_low) ** u[0]
        p = self.p_low + (self.p_high - self.p_low) * u[1]
        kept = make_mask(sample_noise(prng.fold_in(key, "mask"), (batch, height, width), inputs), sigma, p)
        if self.blend == "noise":
            return torch.lerp(_noise_like(inputs, prng.fold_in(key, "noise")), inputs, kept.unsqueeze(1)), targets
        order = u[2].argsort(stable=True)
        mixed = torch.lerp(inputs.index_select(0, order), inputs, kept.unsqueeze(1))
        share = kept.mean((-2, -1)).unsqueeze(-1).to(targets.dtype)
        return mixed, torch.lerp(targets.index_select(0, order), targets, share)


def sample_noise(key: Key, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Nearly standard normal numbers: 256 values, the middles of as many equally likely intervals, all equally likely.

    A byte each in place of a hash and an inverse of the distribution function: three times as fast. Smoothing leaves
    nothing of the steps, and as a picture it has those of one of 8 bits.
    """
    count = math.prod(shape)
    octets = prng.bits(key, (-(-count // 4),), like.device).view(torch.uint8)[:count]
    return _values(like.dtype, str(like.device)).index_select(0, octets.int()).view(shape)


@lru_cache(maxsize=8)
def _values(dtype: torch.dtype, device: str) -> Tensor:
    """The values of `noise`: scaled, so that their variance is 1 in spite of the tails that they lack."""
    values = torch.erfinv((torch.arange(256, dtype=torch.float64) - 127.5) / 128)
    return (values / values.square().mean().sqrt()).to(device, dtype)


def make_mask(noise: Tensor, sigma: Tensor, p: Tensor) -> Tensor:
    """CowMask: 1 where a pixel is kept, else 0, of noise (B, height, width), for sigma and p of shape (B,)."""
    height, width = noise.shape[-2:]
    across = _smoothing(width, sigma)
    down = across if height == width else _smoothing(height, sigma)
    n = (down @ noise @ across).flatten(-2)
    n = n.sub_(n.mean(-1, keepdim=True))
    # torch.std takes twenty times as long
    sd = torch.linalg.vector_norm(n, dim=-1, keepdim=True) / math.sqrt(height * width)
    threshold = sd * math.sqrt(2.0) * torch.erfinv(2.0 * p - 1.0).unsqueeze(-1)
    return (n <= threshold).to(noise.dtype).unflatten(-1, (height, width))


def _smoothing(length: int, sigma: Tensor) -> Tensor:
    """The matrices (B, length, length) that smooth an axis with a Gaussian, up to a factor: exp(-(i - j)^2 / 2s^2)."""
    distance = torch.arange(1 - length, length, dtype=sigma.dtype, device=sigma.device)
    weights = (-0.5 * (distance / sigma.unsqueeze(-1)).square()).exp()
    return weights.unfold(-1, length, 1).flip(-2)


def _noise_like(inputs: Tensor, key: Key) -> Tensor:
    """Noise of the inputs' shape, with the mean and standard deviation of each of their channels."""
    mean = inputs.mean((0, 2, 3), keepdim=True)
    sd = (inputs - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
    return sample_noise(key, tuple(inputs.shape), inputs).mul_(sd).add_(mean)

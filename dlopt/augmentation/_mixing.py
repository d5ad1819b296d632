"""Mixtures of the examples of a mini-batch, with their targets mixed in the same proportion."""

from functools import lru_cache

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from dlopt import prng
from dlopt.prng import Key

QUANTILES = 2**14
"""Number of equally likely values of a random share: its distribution function is off by 2^-15 at most."""


def choose_partners(u: Tensor) -> Tensor:
    """Return a random permutation of the batch, the partner of each example, from uniform numbers (B,)."""
    return u.argsort(stable=True)


def mix(inputs: Tensor, targets: Tensor, order: Tensor, mask: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return m x + (1 - m) x_partner and s y + (1 - s) y_partner.

    order   partner of each example
    mask    m, of a shape that broadcasts to that of inputs
    share   s, (B,): the mean of m over an example
    """
    mixed = torch.lerp(inputs.index_select(0, order), inputs, mask)
    return mixed, torch.lerp(targets.index_select(0, order), targets, share.unsqueeze(-1).to(targets.dtype))


def sample_share(key: Key, alpha: float, p: float, count: int, device: torch.device) -> Tensor:
    """Draw shares from Beta(alpha, alpha) with probability p, else 1: (count,) in float64 where the device has it.

    The inverse distribution function is tabulated once, because it has no closed form and torch has none.
    """
    u = prng.uniform(key, (2, count), device)
    quantiles = _tabulate_quantiles(alpha, str(device))
    share = quantiles.index_select(0, (u[0] * QUANTILES).long())
    return torch.where(u[1] < p, share, 1.0)


@lru_cache(maxsize=8)
def _tabulate_quantiles(alpha: float, device: str) -> Tensor:
    """Return the quantiles of Beta(alpha, alpha) at the midpoints of equally likely intervals."""
    lower = betaincinv(alpha, alpha, (np.arange(QUANTILES // 2) + 0.5) / QUANTILES)
    values = np.concatenate([lower, 1.0 - lower[::-1]])  # symmetric, as quantiles near 1 need
    return torch.from_numpy(values).to(device, torch.float32)

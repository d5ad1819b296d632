"""Self-attention with several heads, and positions of its steps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.base.kernels import may_use_fused_kernels

BASE = 10_000.0
"""Longest wavelength of the angles of positions, in units of 2 pi steps."""


class StackedLinear(nn.Linear):
    """Several linear layers on the same inputs in one matrix; an init draws each by itself."""

    def __init__(self, inputs: int, units: int, stacked: int) -> None:
        super().__init__(inputs, units * stacked)
        self.stacked = stacked


class SelfAttention(nn.Module):
    """Attention of each step to all steps, or with causal to itself and those before, for x of shape (B, T, width).

    queries, keys and values are stacked in one matrix. With rotary positions, queries and keys are rotated before their
    product, which then depends on the distance of their steps.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, rotary: Rotary | None) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.rotary = rotary
        self.projection = StackedLinear(width, width, 3)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.projection(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        # steps of padding are behind all others, so a causal attention never reaches them
        keys = None if mask is None or self.causal else mask[:, None, None, :]
        attend = F.scaled_dot_product_attention if may_use_fused_kernels() else attend_plainly
        mixed = attend(q, k, v, attn_mask=keys, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v over the keys that the mask allows, of shape (..., T, d)."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if is_causal:
        steps = torch.arange(q.shape[-2], device=q.device)
        attn_mask = steps <= steps.unsqueeze(-1)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1) @ v


def list_angles(steps: int, width: int) -> Tensor:
    """Return the angles (steps, width / 2) of positions t: t BASE^(-2 i / width), in float64."""
    frequencies = BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.arange(steps, dtype=torch.float64).unsqueeze(-1) * frequencies


class Rotary(nn.Module):
    """Rotates pairs of features (i, i + d/2) of each step t, (..., T, d), by the angle t BASE^(-2 i / d)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        angles = list_angles(steps, width)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class SinusoidalPositions(nn.Module):
    """Adds sines and cosines of the angles of each step to x (B, T, width)."""

    table: Tensor

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        angles = list_angles(steps, width)
        table = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


class LearnedPositions(nn.Module):
    """Adds a learned vector of each of the first steps to x (B, T, width)."""

    def __init__(self, steps: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(steps, width) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.shape[1]]

"""Counts of values in buckets of equal width."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.rundir.tensorboard import Bucket


class Histogram(NamedTuple):
    """How often values fall into equal parts of [low, high], the least and the greatest of them.

    Of tensors: counts (..., bins), int64, low (...) and high (...). On the host: a list of numbers, and two numbers.
    """

    counts: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, x: Tensor, bins: int) -> Histogram:
        """The finite values among x, (..., N).

        Bucket i = 0, ..., bins - 1 holds  low + i h <= x < low + (i + 1) h  with  h = (high - low) / bins;  the last
        one holds high as well, and all of the values where they are equal. Without a finite value all is zero. A value
        within rounding of an edge may lie on either side of it.
        """
        rows = x.reshape(-1, x.shape[-1])
        finite = torch.isfinite(rows)
        some = finite.any(-1, keepdim=True)
        low = rows.where(finite, math.inf).amin(-1, keepdim=True).where(some, 0.0)
        high = rows.where(finite, -math.inf).amax(-1, keepdim=True).where(some, 0.0)
        # Not a number where values are equal, where one is not finite, and where h is too large for the type.
        at = ((rows - low) * (bins / (high - low))).nan_to_num_(bins, bins, 0.0).long().clamp_(max=bins - 1)
        at += bins * torch.arange(len(rows), device=x.device).unsqueeze(-1)
        counts = torch.zeros(len(rows) * bins, dtype=torch.int64, device=x.device)
        counts.scatter_add_(
            0, at.flatten(), finite.flatten().long()
        )  # in one dimension, else deterministic mode refuses
        lead = x.shape[:-1]
        return cls(counts.view(*lead, bins), low.view(lead), high.view(lead))

    def pack(self) -> Tensor:
        """All of it as one tensor, (..., bins + 2): a single transfer to the host."""
        return torch.cat([self.counts.to(self.low.dtype), self.low.unsqueeze(-1), self.high.unsqueeze(-1)], dim=-1)

    @classmethod
    def unpack(cls, numbers: list[float]) -> Histogram:
        """The inverse of `packed`, for the numbers of one run."""
        return cls(numbers[:-2], *numbers[-2:])

    def buckets(self) -> list[Bucket]:
        """On the host: the left edge, the right edge and the count of each bucket."""
        bins = len(self.counts)
        edges = [self.low * ((bins - i) / bins) + self.high * (i / bins) for i in range(bins + 1)]
        return list(zip(edges, edges[1:], self.counts, strict=False))

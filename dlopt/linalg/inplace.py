"""In-place vector arithmetic on weight vectors, with fused kernels and cache-sized chunks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_SIZE = 1 << 17
"""Maximum size of a chunk: several tensors of this size fit into the caches of a processor."""


def fused_available(w: Tensor) -> bool:
    """Return whether torch's fused kernels accept w: weights of one run, on a CPU or on CUDA."""
    return w.ndim == 1 and w.device.type in ("cpu", "cuda")


def is_positive(value: float | Tensor) -> bool:
    """Return whether a hyperparameter is positive; a column of lanes counts as if it is, since one of them may be."""
    return isinstance(value, Tensor) or value > 0.0


def cache_chunks(w: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of the same slice of each of these (..., P) tensors, one slice after another.

    A formula of several operations then finds its intermediate results in the cache. Intermediate results of the size
    of w need new memory at each step: at 1.9 million weights the page faults cost more than the arithmetic. Short
    tensors and tensors on other devices are one slice. A tensor (..., 0) is empty in each slice.
    """
    count = -(-w.numel() // CHUNK_SIZE) if w.device.type == "cpu" else 1
    if count == 1:
        yield w, *others
    else:
        yield from zip(*(x.tensor_split(count, dim=-1) for x in (w, *others)), strict=True)


def axpy_(w: Tensor, a: float | Tensor, x: Tensor) -> Tensor:
    """Compute w <- w + a x in place, for a number a or an (E, 1) column, in one pass over memory."""
    return w.addcmul_(x, a) if isinstance(a, Tensor) else w.add_(x, alpha=a)


def clip_factor(x: Tensor, limit: float | Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Return the factors, (..., 1), that reduce the Euclidean norms of vectors (..., n) to at most limit, else 1.

    The entries of a vector lie along the dimensions `dim`, of which the factors have one entry each.

    A factor is NaN if the norm overflows: zero would hide a divergence.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return (limit / norm).clamp(max=1.0).masked_fill(norm.isinf(), torch.nan)


def addcdiv_scaled_(w: Tensor, a: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Compute w <- w + a x / y in place, for a number a or an (E, 1) column."""
    return w.addcdiv_(x * a, y) if isinstance(a, Tensor) else w.addcdiv_(x, y, value=a)


def addcmul_scaled_(w: Tensor, a: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Add a x y to w in place, for a number a or an (E, 1) column."""
    return w.addcmul_(x * y, a) if isinstance(a, Tensor) else w.addcmul_(x, y, value=a)

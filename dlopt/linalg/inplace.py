"""In-place vector arithmetic on weight vectors, with fused kernels and cache-sized chunks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_SIZE = 1 << 17
"""Numbers in one portion: several tensors of so many stay in a processor's caches."""


def fused_available(w: Tensor) -> bool:
    """Whether torch's fused kernels take it: the weights of one run, on a CPU or on CUDA."""
    return w.ndim == 1 and w.device.type in ("cpu", "cuda")


def cache_chunks(w: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of each of these (..., P) tensors, one stretch after another, as views.

    A formula of several operations that goes through them finds its intermediate results in the processor's cache. As
    large as w they would be fresh memory at each step: at 1.9 million weights the page faults cost more than all of the
    arithmetic. Short tensors, and those of other devices, come whole. A tensor (..., 0) is empty in each portion.
    """
    count = -(-w.numel() // CHUNK_SIZE) if w.device.type == "cpu" else 1
    if count == 1:
        yield w, *others
    else:
        yield from zip(*(x.tensor_split(count, dim=-1) for x in (w, *others)), strict=True)


def axpy_(w: Tensor, a: float | Tensor, x: Tensor) -> Tensor:
    """w <- w + a x in place, for a number a or an (E, 1) column, in one pass over memory."""
    return w.addcmul_(x, a) if isinstance(a, Tensor) else w.add_(x, alpha=a)


def clip_factor(x: Tensor, limit: float | Tensor) -> Tensor:
    """The factor, (..., 1), that brings vectors (..., n) to a Euclidean norm of at most limit; 1 where it is none more.

    Not a number where the norm is too large for its type: zero, as it would be, would hide that something explodes.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (limit / norm).clamp(max=1.0).masked_fill(norm.isinf(), torch.nan)


def addcdiv_scaled_(w: Tensor, a: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
    """w <- w + a x / y in place, for a number a or an (E, 1) column."""
    return w.addcdiv_(x * a, y) if isinstance(a, Tensor) else w.addcdiv_(x, y, value=a)


def addcmul_scaled_(w: Tensor, a: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Add a x y to w in place, for a number a or an (E, 1) column."""
    return w.addcmul_(x * y, a) if isinstance(a, Tensor) else w.addcmul_(x, y, value=a)

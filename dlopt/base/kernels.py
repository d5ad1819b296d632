"""The choice between fused kernels and plain operations, for layers that have both.

A fused kernel is faster. Some can neither be mapped over lanes by torch.func.vmap nor be differentiated twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_are_plain: ContextVar[bool] = ContextVar("_are_plain", default=False)


def may_use_fused_kernels() -> bool:
    """Return whether a layer may take a kernel without second derivatives and without a rule for vmap."""
    return not _are_plain.get()


@contextmanager
def use_plain_operations() -> Iterator[None]:
    """Let layers take operations that torch.func can transform in any way, inside this block."""
    token = _are_plain.set(True)
    try:
        yield
    finally:
        _are_plain.reset(token)

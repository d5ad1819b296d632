"""Checks for optimizers that compute the dense Hessian."""

from torch import Tensor

from dlopt.storage import memory

MAX_WEIGHTS = 10_000
"""Weights beyond which a step with the whole Hessian takes minutes on a CPU."""
COPIES = 4
"""Matrices of the size of the Hessian in a step: itself, its columns before they are added, and its decomposition."""


def check_dense(w: Tensor, remedy: str) -> None:
    """Raise ValueError if Hessians of weights (..., P) take too much time or memory; remedy avoids them."""
    needed, what = COPIES * w.element_size() * w.numel() * w.shape[-1], f"the Hessian of {w.shape[-1]:,} weights"
    if w.shape[-1] > MAX_WEIGHTS:
        cost = f"{what} would take {needed / 1e9:,.1f} GB of memory, and minutes at each step"
        raise ValueError(f"{cost}; it is allowed up to {MAX_WEIGHTS:,}; use {remedy}")
    try:
        memory.check(needed, what)
    except memory.NotEnoughMemoryError as error:
        raise memory.NotEnoughMemoryError(f"{error}; use {remedy}") from None

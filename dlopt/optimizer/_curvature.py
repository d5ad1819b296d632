"""Checks for optimizers that hold a dense matrix of all weights."""

from torch import Tensor

from dlopt.storage import memory

MAX_WEIGHTS = 10_000
"""Weights beyond which a step with the whole Hessian takes minutes on a CPU."""
COPIES = 4
"""Matrices of the size of the Hessian in a step: itself, its columns before they are added, and its decomposition."""


def check_dense(w: Tensor, remedy: str) -> None:
    """Raise ValueError if Hessians of weights (..., P) take too much time or memory; remedy avoids them."""
    if w.shape[-1] > MAX_WEIGHTS:
        needed = f"{_count_bytes(w, COPIES) / 1e9:,.1f} GB of memory, and minutes at each step"
        limit = f"it is allowed up to {MAX_WEIGHTS:,}; use {remedy}"
        raise ValueError(f"the Hessian of {w.shape[-1]:,} weights would take {needed}; {limit}")
    check_matrix(w, COPIES, "the Hessian", remedy)


def check_matrix(w: Tensor, copies: int, name: str, remedy: str) -> None:
    """Raise NotEnoughMemoryError if so many matrices (..., P, P) do not fit into memory; remedy avoids them."""
    try:
        memory.check(_count_bytes(w, copies), f"{name} of {w.shape[-1]:,} weights")
    except memory.NotEnoughMemoryError as error:
        raise memory.NotEnoughMemoryError(f"{error}; use {remedy}") from None


def _count_bytes(w: Tensor, copies: int) -> int:
    return copies * w.element_size() * w.numel() * w.shape[-1]

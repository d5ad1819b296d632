"""What optimizers with the whole Hessian share."""

from torch import Tensor

from dlopt.storage import memory

COPIES = 4
"""Matrices of the size of the Hessian in a step: itself, its columns before they are added, and its decomposition."""


def check_dense(w: Tensor, remedy: str) -> None:
    """Raise NotEnoughMemoryError if Hessians of weights (..., P) do not fit into the memory; remedy avoids them."""
    try:
        memory.check(COPIES * w.element_size() * w.numel() * w.shape[-1], f"the Hessian of {w.shape[-1]:,} weights")
    except memory.NotEnoughMemoryError as error:
        raise memory.NotEnoughMemoryError(f"{error}; use {remedy}") from None

"""Networks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dlopt.base.group import Group


@Group(
    "arch",
    needed_for_inference=True,
    lanes="value",
    sets_cost=True,
    supplied=("inputs", "outputs", "activation", "normalization", "dropout"),
)
class Arch(Protocol):
    """A network: any torch.nn.Module.

    If its __init__ names them, it gets: inputs, the shape of one example; outputs, their number; activation and
    normalization, factories of modules; dropout, a function of the number of a hidden layer that returns a module or
    None.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, *shape) to outputs (B, outputs)."""

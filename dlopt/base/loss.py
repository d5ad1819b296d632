"""Losses: the mean loss of a mini-batch and its metrics."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dlopt.base.data import TargetKind
from dlopt.base.group import Group


@Group("loss", must_subclass=True, needed_for_inference=True, lanes="class")
class Loss:
    """The mean loss of a mini-batch, and what is measured beside it.

    targets is the kind of target it is made for. One for classes may take probabilities too, floats of shape
    (..., N, outputs), of which one and zeros are what a class is: then augmentations may mix targets.
    """

    targets: ClassVar[TargetKind]

    def check(self, outputs: Tensor) -> None:
        """Raise, before a run starts, the ValueError that says why it cannot judge such outputs, (B, outputs)."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs (B, outputs) and targets of a batch to the mean loss, shape ()."""
        raise NotImplementedError

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Other figures of merit for outputs (..., N, outputs) and targets (..., N[, outputs]), each of shape (...).

        dlopt.metrics.functional has the usual ones.
        """
        return {}

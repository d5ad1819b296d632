"""Normalizations: makers of modules, and modules with running statistics."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor, nn

from dlopt.base.group import Group


@Group("normalization", needed_for_inference=True, lanes="value")
class Normalization(Protocol):
    """Makes a normalization for inputs (batch, features, *dims), or None for none at all."""

    def __call__(self, features: int, dims: int) -> nn.Module | None: ...


class BatchStatisticsModule(nn.Module):
    """A module that uses statistics of the batch in training and their moving average in inference.

    Forward must not touch its buffers: it leaves the batch's statistics in `seen`, by the buffer's name, and the loop
    applies one moving average per step, from the first evaluation:  buffer <- (1 - momentum) buffer + momentum seen.
    So a rule that evaluates its objective five times moves them once.
    """

    normalizes: ClassVar[bool] = True
    momentum: float
    batch_stats: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.batch_stats = {}

"""Averagings: running averages of the iterates."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlopt.base.group import Group
from dlopt.base.schedule import TrainingTime


@Group("averaging", optional=True, must_subclass=True, lanes="value")
class Averaging:
    """A running average of the iterates, evaluated beside them."""

    def first(self, time: TrainingTime) -> int:
        """The number of the first step of such a run whose result is taken in; before its end there is no average."""
        return 0

    def init(self, w: Tensor) -> Any:
        """The state before anything is taken in, like that of an update rule."""
        raise NotImplementedError

    def update(self, state: Any, w: Tensor, time: TrainingTime) -> Any:
        """Take in the iterate after this step, the first or a later one; state may be overwritten, w not."""
        raise NotImplementedError

    def value(self, state: Any) -> Tensor:
        """The average, (..., P), once something was taken in."""
        raise NotImplementedError

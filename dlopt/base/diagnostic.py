"""Diagnostics: measurements of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dlopt.base.group import Group
from dlopt.base.histogram import Histogram
from dlopt.base.layout import Layout
from dlopt.base.optimizer import ObjectiveOracle
from dlopt.ranges import Count

Reading = Tensor | Histogram
"""What an instrument reads: numbers of w's leading shape, (...), or histograms of that shape."""


@dataclass(frozen=True)
class StepRecord:
    """One step of training, for instruments: its number, both iterates, loss and gradient at the first of them.

    The gradient is that of the objective itself, before it is clipped or noise is added to it.
    """

    step: int
    before: Tensor
    after: Tensor
    loss: Tensor
    gradient: Tensor
    lr: float | Tensor
    layout: Layout
    objective: ObjectiveOracle
    info: Mapping[str, Tensor] = field(default_factory=dict)


@Group(
    "diagnostic", multiple=True, must_subclass=True, changeable_on_resume=True, affects_training=False, lanes="value"
)
@dataclass(frozen=True)
class Diagnostic:
    """An instrument: it watches, and cannot disturb training.

    every   measure at every so many steps; null measures whenever a row is logged
    """

    every: Count | None

    def measure(self, moment: StepRecord, memory: Any) -> tuple[Mapping[str, Reading], Any]:
        """Tags with values of w's leading shape, and what to be handed at the next measurement (None at the first).

        A value is a number, which goes into the row, or a histogram, which goes to TensorBoard alone.
        """
        raise NotImplementedError

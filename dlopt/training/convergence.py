"""The end of runs by their tolerances: the norms of each step, and which runs have reached a tolerance."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from dlopt.metrics.names import GRADIENT_NORM, UPDATE_NORM
from dlopt.training.state import TrainState


class Convergence:
    """The norms of the latest step and the runs that end by them, by lane.

    norms     the numbers that rows hold; empty without a tolerance
    reached   the lanes that have reached a tolerance
    """

    def __init__(self, training: TrainState, *, may_end: bool) -> None:
        self.tolerance = training.settings.tolerance
        self.is_on = self.tolerance.is_on
        self.may_end = may_end
        self.norms: Sequence[dict[str, float]] = [{}] * training.count
        self.reached: Collection[int] = ()

    def measure(self, training: TrainState, g: Tensor, before: Tensor) -> None:
        """Measure a step with the gradient g from `before` to the present iterate, each (..., P)."""
        norms = {GRADIENT_NORM: torch.linalg.vector_norm(g, dim=-1)}
        if self.tolerance.step is not None:
            norms[UPDATE_NORM] = torch.linalg.vector_norm(training.w - before, dim=-1)
        columns = torch.stack([*norms.values()], dim=-1).reshape(-1, len(norms)).tolist()  # in one transfer
        self.norms = [dict(zip(norms, numbers, strict=True)) for numbers in columns]
        if self.may_end:
            self.reached = {i for i, row in enumerate(self.norms) if self.tolerance.describe_reached(row)}

    def select_lanes(self, indices: Sequence[int]) -> None:
        """Keep only these lanes, none of which has reached a tolerance."""
        self.norms = [self.norms[i] for i in indices]
        self.reached = ()

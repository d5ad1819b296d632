"""Preprocessing: statistics of the training split, and a transformation of all inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from dlopt.base.group import Group


@Group("preprocess", multiple=True, needed_for_inference=True)
class Preprocess(Protocol):
    """Fitted on the training split alone, then applied to all of the data."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        """The statistics of the training inputs, (N, *shape); they are stored with the run."""

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """The transformed inputs, any number of examples."""

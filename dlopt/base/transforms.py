"""Transforms of the data: preprocessing of all inputs, and augmentation of training mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dlopt.base.group import Group
from dlopt.prng import Key


@Group("preprocess", multiple=True, needed_for_inference=True)
class Preprocess(Protocol):
    """A transformation that is fitted on the training split and applied to all data."""

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the statistics of the training inputs, (N, *shape); they are stored with the run."""

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Return the transformed inputs, for any number of examples."""


class ChunkedPreprocess(ABC):
    """A preprocessing whose statistics are computed in one pass over chunks, so that inputs may exceed memory.

    Any other preprocessing reads all training inputs at once.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        return self.fit_chunks([inputs], inputs.dtype)

    def fit_chunks(self, chunks: Iterable[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the statistics of the training inputs, given in chunks of a type."""
        return {name: values.to(dtype) for name, values in self.compute_statistics(chunks).items()}

    @abstractmethod
    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the statistics of the training inputs in one or more chunks, (n, *shape), in any type."""


@Group("augmentation", multiple=True, must_subclass=True, changeable_on_resume=True, lanes="value")
class Augmentation:
    """A random change of training mini-batches: a pure function of the batch and a key.

    dims holds the supported numbers of spatial dimensions: 0 for features, 1 for series, 2 for images. keeps_padding is
    whether it leaves padding where it is, which is NaN at the end of series of different lengths; other data do not
    have it.
    """

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)
    keeps_padding: ClassVar[bool] = False

    @property
    def mixes(self) -> bool:
        """Return whether it mixes the targets of examples.

        If an augmentation of a run does, all augmentations and the loss get probabilities (B, outputs) in place of
        classes (B,). Initially the class has probability one.
        """
        return False

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Map inputs (B, *shape) and targets (B,) or (B, outputs) to new ones of the same shapes and types."""
        raise NotImplementedError

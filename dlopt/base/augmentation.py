"""Augmentations: random changes of training mini-batches."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dlopt.base.group import Group
from dlopt.prng import Key


@Group("augmentation", multiple=True, must_subclass=True, changeable_on_resume=True, lanes="value")
class Augmentation:
    """Changes a mini-batch, in training only: a pure function of the batch and a key.

    dims names the numbers of spatial dimensions it can work on: 0 for features, 1 for series, 2 for images.
    """

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)

    @property
    def mixes(self) -> bool:
        """Whether it mixes the targets of examples. Where one does, all augmentations of the run, and the loss, get
        probabilities (B, outputs) in place of classes (B,): one for the class at first, and zero for the others."""
        return False

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Inputs (B, *shape) and targets (B,) or (B, outputs) to new ones of the same shapes and types."""
        raise NotImplementedError

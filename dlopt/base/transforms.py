"""Transforms of the data: preprocessing of all inputs, and augmentation of training mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, Protocol

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

    dims           the supported numbers of spatial dimensions: 0 for features, 1 for series, 2 for images
    keeps_steps    whether each step of a series stays in its place, and padding (NaN) stays padding. Without it, the
                   augmentation is refused for padded series and for targets of each step
    uses_pixels    whether it takes and returns pixel values from 0 (black) to 1 (white), without the preprocessing
    """

    dims: ClassVar[tuple[int, ...]] = (0, 1, 2)
    keeps_steps: ClassVar[bool] = False
    uses_pixels: ClassVar[bool] = False

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


class PixelScale(NamedTuple):
    """A preprocessing of images that is affine in each pixel: its values of an all-black and of an all-white image.

    Both have the shape of an image, (channels, height, width); for E lanes, (E, 1, channels, height, width).
    """

    black: Tensor
    white: Tensor

    def to_pixels(self, inputs: Tensor) -> Tensor:
        """Return pixel values from 0 to 1 for preprocessed images."""
        return (inputs - self.black) / (self.white - self.black)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Preprocess pixel values."""
        return torch.lerp(self.black, self.white, pixels)


def augment(
    part: Augmentation,
    inputs: Tensor,
    targets: Tensor,
    key: Key,
    scale: PixelScale | None = None,
    *,
    lanes: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return a mini-batch, or those of lanes, after an augmentation; scale is None without preprocessing."""
    call = torch.vmap(part) if lanes else part
    if scale is None or not part.uses_pixels:
        return call(inputs, targets, key)
    pixels, targets = call(scale.to_pixels(inputs), targets, key)
    return scale.from_pixels(pixels), targets

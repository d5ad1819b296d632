"""MNIST-1D."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from dlopt.data import _cache
from dlopt.parts import Data, Dataset, Split


@dataclass(frozen=True)
class MNIST1D(Data):
    """Ten one-dimensional digits: 4000 series for training and 1000 for the test, 40 samples each, 10 classes.

    Made by the authors' own generator with its default arguments, so that it needs no download; each digit is a
    template that is padded, scaled, translated, sheared and made noisy. Linear models reach about 32%, MLPs 65 to 68%,
    convolutional nets 92 to 94%: it tells apart what MNIST does not. Inputs have shape (1, 40).

    path   folder for the generated file (about 0.8 MB); null is dlopt's cache

    Source: Greydanus and Kobak 2024, "Scaling down deep learning with MNIST-1D".
    """

    keeps_copy: ClassVar[bool] = True

    def load(self) -> Dataset:
        folder = _cache.cache_dir() if self.path is None else Path(self.path).expanduser()
        return _load(folder / "mnist1d.npz")


@lru_cache(maxsize=1)
def _load(file: Path) -> Dataset:
    arrays = _cache.load_or_make(file, _generate)
    x, y, x_test, y_test = (torch.from_numpy(arrays[name]) for name in ("x", "y", "x_test", "y_test"))
    return Dataset(Split(x.unsqueeze(1), y), Split(x_test.unsqueeze(1), y_test), outputs=10)


def _generate() -> _cache.ArrayDict:
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    return {
        name: made[name].astype(np.int64 if name.startswith("y") else np.float32)
        for name in ("x", "y", "x_test", "y_test")
    }

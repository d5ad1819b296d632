"""Handwritten digits of 8x8 pixels."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from dlopt.data import _cache
from dlopt.parts import Data, Dataset, Split


@dataclass(frozen=True)
class Digits(Data):
    """Real handwriting: 1797 digits of 8x8 pixels in 0..1; the first 1437 for training, the last 360 for the test.

    Consecutive digits are often by one writer, so this test split is harder than a random one.
    Inputs have shape (1, 8, 8).

    path   folder for a copy that loads faster; null: dlopt's cache

    Source: the test set of the UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), as it ships
    with scikit-learn.
    """

    keeps_copy: ClassVar[bool] = True

    def load(self) -> Dataset:
        folder = _cache.cache_dir() if self.path is None else Path(self.path).expanduser()
        return _load(folder / "digits.npz")


@lru_cache(maxsize=1)
def _load(file: Path) -> Dataset:
    arrays = _cache.load_or_make(file, _read)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    return Dataset(Split(x[:1437], y[:1437]), Split(x[1437:], y[1437:]), outputs=10)


def _read() -> _cache.ArrayDict:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return {"x": (digits.images / 16.0).astype(np.float32)[:, None], "y": digits.target.astype(np.int64)}

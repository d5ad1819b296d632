"""Diabetes progression."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dlopt.data import _cache, _targets
from dlopt.parts import Data, Dataset, Split

TRAIN = 353
"""Number of training examples: 80% of 442."""


@dataclass(frozen=True)
class Diabetes(Data):
    """Real regression: 442 diabetes patients; the first 353 for training, the last 89 for the test.

    Ten inputs at the start, in their own units: age, sex, body mass index, blood pressure and six blood serum
    measurements. The target is a measure of the progression of the disease after one year, 25 to 346. Least squares
    reaches R^2 of about 0.5, and nonlinear models hardly more.

    standardize_target   predict (y - mu) / sigma, with the mean mu and the standard deviation sigma (divided by N) of
                         the run's training rows. R^2 does not change
    path                 folder for a copy that loads faster; null: dlopt's cache

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, Least angle regression, as it ships with scikit-learn.
    """

    keeps_copy: ClassVar[bool] = True

    standardize_target: bool

    def load(self) -> Dataset:
        folder = _cache.cache_dir() if self.path is None else Path(self.path).expanduser()
        x, y = _load(folder / "diabetes.npz")
        if not self.standardize_target:
            y = y.float()
        train, test = Split(x[:TRAIN], y[:TRAIN]), Split(x[TRAIN:], y[TRAIN:])
        return Dataset(train, test, 1, ("progression",), {"middle": 0.0, "scale": 1.0})

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**encoding, **_targets.fit_standardization(train)}

    def transform_targets(self, targets: Tensor, encoding: Mapping[str, Any]) -> Tensor:
        return _targets.standardize(targets, encoding)


@lru_cache(maxsize=1)
def _load(file: Path) -> tuple[Tensor, Tensor]:
    """Return inputs, (442, 10) float32, and targets, (442, 1) float64."""
    arrays = _cache.load_or_make(file, _read)
    return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])


def _read() -> _cache.ArrayDict:
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return {"x": data.data.astype(np.float32), "y": data.target[:, None]}

"""The data of the cases, the same tensors for every side."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.data.fashion_mnist import FashionMNIST
from dlopt.data.mnist1d import MNIST1D
from dlopt.parts import Data, Dataset, Split


@dataclass(frozen=True)
class Synthetic(Data):
    """Noise: 6000 examples of the given shape for training, 1000 for the test, 10 classes."""

    shape: tuple[int, ...] = (784,)

    def load(self) -> Dataset:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(7000, *self.shape, generator=generator)
        y = torch.randint(10, (7000,), generator=generator)
        return Dataset(Split(x[:6000], y[:6000]), Split(x[6000:], y[6000:]), outputs=10)


def load_examples(name: str) -> tuple[Tensor, Tensor]:
    """Return the training inputs and targets of a case."""
    fields: dict[str, Any] = {
        "path": None,
        "train_size": None,
        "label_noise": 0.0,
        "drop_last": False,
        "order": "reshuffle",
    }
    data: Data
    if name == "fashion_mnist":
        data = FashionMNIST(**fields, url=None, verify=True)
    else:
        data = (MNIST1D if name == "mnist1d" else Synthetic)(**fields)
    train = data.load().train
    return train.inputs, train.targets

"""Fashion-MNIST."""

from dataclasses import dataclass
from typing import ClassVar

from dlopt.data._downloaded import IdxDataset


@dataclass(frozen=True)
class FashionMNIST(IdxDataset):
    """Photographs of clothes in ten classes: 60,000 grey images for training and 10,000 for the test.

    A harder replacement of MNIST with the same sizes: linear models reach about 84%, convolutional networks 91 to 95%.
    Inputs are in 0..1, of shape (1, 28, 28).

    The files are {train,t10k}-{images-idx3,labels-idx1}-ubyte, compressed (.gz) or not.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms".
    """

    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    debian: ClassVar[tuple[str, str] | None] = ("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist")
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }

"""MNIST."""

from dataclasses import dataclass
from typing import ClassVar

from dlopt.data._downloaded import IdxDataset


@dataclass(frozen=True)
class MNIST(IdxDataset):
    """Handwritten digits: 60,000 grey images for training and 10,000 for the test.

    Linear models reach about 92%, MLPs 98%, convolutional networks more than 99%. To compare methods, fashion_mnist and
    mnist1d are better. Inputs are in 0..1, of shape (1, 28, 28).

    The files are {train,t10k}-{images-idx3,labels-idx1}-ubyte, compressed (.gz) or not.

    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".
    """

    classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

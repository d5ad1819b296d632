"""The network with three convolutions of DeepOBS."""

import math

from torch import Tensor, nn

from dlopt.arch._convolutions import SamePool, count_dims
from dlopt.parts import Activation

CONVOLUTIONS = ((64, 5, 0), (96, 3, 0), (128, 3, 1))
"""Output channels, kernel size and padding of each convolution."""
UNITS = (512, 256)
"""Units of the fully connected hidden layers."""
LEAST = 9
"""Smallest side of an image: the first two convolutions leave 5 positions of 9, and 1 of the 3 after pooling."""


class ThreeConvolutions(nn.Module):
    """Three convolutions with pooling and two hidden layers, for the test problem cifar10_3c3d of DeepOBS.

    The convolutions have 64 channels with a 5x5 kernel, 96 with 3x3 and 128 with 3x3; only the last one is padded. The
    activation and the maxima over 3x3 positions with stride 2, padded to half of the positions, follow each. Hidden
    layers of 512 and 256 units and a linear layer follow. On colour images of 32x32 these are 895,210 weights and
    biases.

    The published weights of convolutions are init=xavier_normal, which this option selects. The other layers are
    published with init=xavier, uniform numbers of the same variance. Biases are zero. The published training takes
    batch_size=128, epochs=100, regularization=l2 and regularization.l2.strength=0.002, for weights and not biases.

    Source: Schneider, Balles and Hennig 2019, DeepOBS, appendix; deepobs/tensorflow/testproblems/_3c3d.py.
    """

    def __init__(self, inputs: tuple[int, ...], outputs: int, activation: Activation) -> None:
        super().__init__()
        count_dims("deepobs_3c3d", inputs, images_only=True)
        before, *sides = inputs
        if min(sides) < LEAST:
            raise ValueError(
                f"deepobs_3c3d needs images of at least {LEAST}x{LEAST}, the data has shape {inputs}; use arch=cnn"
            )
        hidden: list[nn.Module] = []
        for after, kernel, padding in CONVOLUTIONS:
            hidden += [nn.Conv2d(before, after, kernel, padding=padding), activation(), SamePool(3, 2)]
            before, sides = after, [-(-(n + 2 * padding - kernel + 1) // 2) for n in sides]
        hidden += [nn.Flatten()]
        before *= math.prod(sides)
        for units in UNITS:
            hidden += [nn.Linear(before, units), activation()]
            before = units
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x))

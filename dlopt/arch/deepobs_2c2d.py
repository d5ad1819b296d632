"""The network with two convolutions of DeepOBS."""

import math

from torch import Tensor, nn

from dlopt.arch._convolutions import SamePool, count_dims
from dlopt.parts import Activation

CHANNELS = (32, 64)
"""Output channels of the convolutions."""
UNITS = 1024
"""Units of the fully connected hidden layer."""


class TwoConvolutions(nn.Module):
    """Two convolutions with pooling and one hidden layer, for the test problems mnist_2c2d and fmnist_2c2d of DeepOBS.

    Each convolution has a 5x5 kernel, padded to keep the positions, the activation, and the maxima over 2x2 positions:
    32 channels, then 64. A hidden layer of 1024 units and a linear layer follow. On images of 28x28 these are 3,274,634
    weights and biases.

    The published weights are normal with standard deviation 0.05, truncated at two standard deviations, which this
    option selects; the published biases are 0.05: bias_init=constant bias_init.value=0.05. The published training takes
    batch_size=128 and epochs=100.

    Source: Schneider, Balles and Hennig 2019, DeepOBS, appendix; deepobs/tensorflow/testproblems/_2c2d.py.
    """

    def __init__(self, inputs: tuple[int, ...], outputs: int, activation: Activation) -> None:
        super().__init__()
        count_dims("deepobs_2c2d", inputs, images_only=True)
        hidden: list[nn.Module] = []
        before, *sides = inputs
        for after in CHANNELS:
            hidden += [nn.Conv2d(before, after, 5, padding=2), activation(), SamePool(2, 2)]
            before, sides = after, [-(-n // 2) for n in sides]
        hidden += [nn.Flatten(), nn.Linear(before * math.prod(sides), UNITS), activation()]
        self.hidden = nn.Sequential(*hidden)
        self.output = nn.Linear(UNITS, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x))

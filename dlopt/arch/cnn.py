"""A convolutional network for series or images."""

import math
from collections.abc import Callable
from typing import Annotated

from torch import Tensor, nn

from dlopt.arch._convolutions import count_dims
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count, Range


class CNN(nn.Module):
    """Strided convolutions, then a linear layer; a hidden layer is convolution, normalization, activation, dropout.

    A layer maps a length n to floor((n + 2 padding - kernel) / stride) + 1. On series of length 40 the defaults are the
    network of the MNIST-1D paper (5210 weights and biases).

    channels   output channels of each convolution
    kernels    kernel size of each convolution
    stride     of each convolution, in positions
    padding    zeros on each side

    Source: Greydanus and Kobak 2024, "Scaling down deep learning with MNIST-1D".
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        channels: list[Count],
        kernels: list[Count],
        stride: Count,
        padding: Annotated[int, Range(ge=0)],
    ) -> None:
        super().__init__()
        dims = count_dims("cnn", inputs)
        if len(kernels) != len(channels):
            raise ValueError(
                f"kernels must have one entry for each of the {len(channels)} channels, got {len(kernels)}"
            )
        convolution = nn.Conv1d if dims == 1 else nn.Conv2d
        hidden: list[nn.Module | None] = []
        before, *lengths = inputs
        for site, (features, kernel) in enumerate(zip(channels, kernels, strict=True)):
            lengths = [(n + 2 * padding - kernel) // stride + 1 for n in lengths]
            if min(lengths) < 1:
                raise ValueError(
                    f"nothing is left of inputs of shape {inputs} after {site + 1} convolutions; use fewer"
                )
            hidden += [
                convolution(before, features, kernel, stride, padding),
                normalization(features, dims),
                activation(),
                dropout(site),
            ]
            before = features
        self.hidden = nn.Sequential(*(layer for layer in hidden if layer is not None))
        self.output = nn.Linear(before * math.prod(lengths), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x).flatten(1))

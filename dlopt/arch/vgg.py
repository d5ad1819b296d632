"""VGG networks for small images."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from dlopt.arch._convolutions import count_dims, make_convolution, scale
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count, Positive

Configuration = Literal["A", "B", "C", "D", "E"]
CHANNELS = (64, 128, 256, 512, 512)
"""Output channels of the convolutions of each stage."""
KERNELS: dict[Configuration, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Kernel sizes of each stage, from table 1 of the paper."""


class VGG(nn.Module):
    """Stages of convolutions with small kernels, for series or images; the networks VGG-11 to VGG-19 for small images.

    A layer is convolution, normalization, activation, dropout. The maxima over two (or 2x2) positions end each of the
    five stages; n positions become ceil(n / 2), so that images smaller than 32x32 are allowed. A stage has one to four
    convolutions, of 64, 128, 256, 512 and 512 channels:

        A   VGG-11: 1, 1, 2, 2 and 2 convolutions
        B   VGG-13: 2 in each stage
        C   VGG-16 with 2, 2, 3, 3 and 3, of which the third has a 1x1 kernel
        D   VGG-16 with 2, 2, 3, 3 and 3
        E   VGG-19 with 2, 2, 4, 4 and 4

    As is common for small images, there is a normalization, and the mean over the positions that remain goes through a
    linear layer. The paper has neither: normalization=none arch.dense=[4096,4096] is closest to it. A convolution
    before a normalization has no bias, since the normalization has a shift.

    configuration   A, B, C, D or E
    width           factor of all channels, rounded to whole numbers; 0.25 trains on a CPU
    dense           units of fully connected hidden layers before the last layer

    Source: Simonyan and Zisserman 2015, table 1; Liu and Deng 2015 for small images with batch normalization.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        configuration: Configuration,
        width: Positive,
        dense: list[Count],
    ) -> None:
        super().__init__()
        dims = count_dims("vgg", inputs)
        pool: Any = nn.MaxPool1d if dims == 1 else nn.MaxPool2d
        hidden: list[nn.Module | None] = []
        before, site = inputs[0], 0
        for features, kernels in zip(CHANNELS, KERNELS[configuration], strict=True):
            after = scale(features, width)
            for kernel in kernels:
                layer = make_convolution(before, after, kernel, normalization, dims)
                hidden += [*layer, activation(), dropout(site)]
                before, site = after, site + 1
            hidden.append(pool(2, ceil_mode=True))
        self.hidden = nn.Sequential(*(layer for layer in hidden if layer is not None))
        last: list[nn.Module | None] = []
        for units in dense:
            last += [nn.Linear(before, units), normalization(units, 0), activation(), dropout(site)]
            before, site = units, site + 1
        self.dense = nn.Sequential(*(layer for layer in last if layer is not None))
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dense(self.hidden(x).flatten(2).mean(-1)))

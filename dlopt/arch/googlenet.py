"""GoogLeNet for small images: inception blocks and auxiliary heads."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlopt.arch._convolutions import count_dims, make_convolution, scale
from dlopt.parts import Activation, Normalization
from dlopt.ranges import NonNegative, Positive

FIRST = 192
"""Output channels of the first convolution."""
BLOCKS: Mapping[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of the convolutions of each block, from table 1 of the paper: 1, 1 and 3, 1 and 5, and 1 after pooling."""
POOLED = ("4a", "5a")
"""Blocks before which the positions are halved."""
HEADS = ("4a", "4d")
"""Blocks whose outputs have a head."""
HEAD_CHANNELS, HEAD_UNITS = 128, 1024
"""Channels of the convolution in a head, and units of its hidden layer."""


class GoogLeNet(nn.Module):
    """Nine inception blocks for series or images, with two auxiliary heads; GoogLeNet for small images.

        y = (f(W1 x), f(W3 f(V3 x)), f(W5 f(V5 x)), f(W0 max(x)))

    W1, V3, V5 and W0 are convolutions with kernel 1, W3 and W5 with kernels 3 and 5; f is normalization and activation.
    The maxima are over three (or 3x3) positions. The four parts are the channels of y. Maxima with stride 2 halve the
    positions twice. The mean over positions goes through dropout and a linear layer. In place of the first layers of
    the paper, which reduce images of 224x224 to 28x28, there is one convolution with kernel 3 and 192 channels, as is
    common for small images.

    A head helps to train the lower layers. It takes the outputs of block 4a or 4d through means over five positions
    with stride 3, f of a convolution with kernel 1, a hidden layer, dropout and a linear layer. Training minimizes

        loss = loss(output) + auxiliary_weight (loss(head 1) + loss(head 2))

    Rows report both losses as train/auxiliary/1/loss and train/auxiliary/2/loss. In inference the heads are not
    computed, and the network without them gives the same bits.

    A convolution before a normalization has no bias, since the normalization has a shift. The paper has no
    normalization; this option selects normalization=batch.

    width              factor of all channels and units, rounded to whole numbers; 0.25 trains on a CPU
    auxiliary_weight   weight of the losses of the heads; null omits the heads

    Source: Szegedy et al. 2014, Going deeper with convolutions, table 1 and section 5; Lee, Xie, Gallagher, Zhang and
    Tu 2014, Deeply-supervised nets; Ioffe and Szegedy 2015 for batch normalization.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        width: Positive,
        auxiliary_weight: NonNegative | None,
    ) -> None:
        super().__init__()
        dims = count_dims("googlenet", inputs)
        pool: Any = nn.MaxPool1d if dims == 1 else nn.MaxPool2d
        self.auxiliary_weight = auxiliary_weight

        def convolve(before: int, after: int, kernel: int) -> nn.Sequential:
            """Return a convolution, its normalization and activation."""
            return nn.Sequential(*make_convolution(before, after, kernel, normalization, dims), activation())

        def make_block(
            before: int, one: int, less_three: int, three: int, less_five: int, five: int, pooled: int
        ) -> Inception:
            branches: list[nn.Module] = [
                convolve(before, one, 1),
                nn.Sequential(convolve(before, less_three, 1), convolve(less_three, three, 3)),
                nn.Sequential(convolve(before, less_five, 1), convolve(less_five, five, 5)),
                nn.Sequential(pool(3, 1, padding=1), convolve(before, pooled, 1)),
            ]
            return Inception(branches)

        def make_head(before: int, lengths: list[int], site: int) -> nn.Sequential:
            channels, units = scale(HEAD_CHANNELS, width), scale(HEAD_UNITS, width)
            mean: Any = nn.AvgPool1d if dims == 1 else nn.AvgPool2d
            kernels = [min(5, n) for n in lengths]
            positions = [(n - kernel) // 3 + 1 for n, kernel in zip(lengths, kernels, strict=True)]
            flat = channels * torch.Size(positions).numel()
            drop = dropout(site)
            layers = [
                mean(kernels, 3),
                *convolve(before, channels, 1),
                nn.Flatten(),
                nn.Linear(flat, units),
                activation(),
            ]
            return nn.Sequential(*layers, *([] if drop is None else [drop]), nn.Linear(units, outputs))

        features, lengths = scale(FIRST, width), list(inputs[1:])
        self.first = convolve(inputs[0], features, 3)
        self.blocks, self.heads = nn.ModuleDict(), nn.ModuleDict()
        drop = dropout(0)
        for name, channels in BLOCKS.items():
            if name in POOLED:
                self.blocks[f"pool{name[0]}"] = pool(3, 2, padding=1)
                lengths = [-(-n // 2) for n in lengths]
            scaled = [scale(n, width) for n in channels]
            self.blocks[name] = make_block(features, *scaled)
            features = scaled[0] + scaled[2] + scaled[4] + scaled[5]
            if name in HEADS and auxiliary_weight is not None:
                self.heads[name] = make_head(features, lengths, 1 + len(self.heads))
        self.dropout = nn.Identity() if drop is None else drop
        self.output = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        x = self.first(x)
        auxiliary: list[Tensor] = []
        for name, block in self.blocks.items():
            x = block(x)
            if self.training and name in self.heads:
                auxiliary.append(self.heads[name](x))
        output = self.output(self.dropout(x.flatten(2).mean(-1)))
        return (output, auxiliary) if auxiliary else output


class Inception(nn.Module):
    """The outputs of branches on the same input, as channels side by side."""

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)

"""Residual networks, and their plain twins."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.errors import OptionError
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count

Shortcut = Literal["identity", "projection"]


class ResNet(nn.Module):
    """Stages of residual blocks, for series or images by the shape of the data; the net of He et al. for CIFAR-10.

        y = f(x + F(x))

    f is the activation and F convolution, normalization, f, dropout, convolution, normalization. A first convolution
    with normalization and f makes channels[0] features; then come `blocks` blocks for each entry of channels, of which
    the first one of every stage but the first halves the positions by a stride of 2; the mean over positions goes
    through a linear layer. These are 2 blocks len(channels) + 2 layers: the defaults are ResNet-20, blocks=9 is
    ResNet-56, blocks=18 is ResNet-110.

    skip=false is the plain twin, y = f(F(x)): the same layers, of the same names and so with the same initial weights,
    without the additions, which are all that keeps a deep net trainable. It has no shortcuts, and so no projections:
    with shortcut=identity the two have the same weights, with shortcut=projection the plain one has fewer.

    A convolution has no bias where a normalization follows it, which brings a shift of its own. Without normalization
    every block adds its variance to that of its input, which grows with the number of blocks; normalization=batch, with
    which the paper trains, is chosen with this option. Dropout stands inside F, where it cannot cut the shortcut.

    channels   output channels of each stage
    blocks     blocks of each stage
    kernel     kernel size, odd, of all convolutions; they are padded so that only a stride changes the positions
    skip       false leaves out the additions
    shortcut   where a block changes the shape: identity takes every second position and adds channels of zeros (option
               A in the paper, no weights), projection is a 1x1 convolution with a normalization (option B)

    Source: He, Zhang, Ren and Sun 2016, sections 3.3 and 4.2; dropout as in Zagoruyko and Komodakis 2016.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        channels: list[Count],
        blocks: Count,
        kernel: Count,
        skip: bool,
        shortcut: Shortcut,
    ) -> None:
        super().__init__()
        dims = len(inputs) - 1
        if dims not in (1, 2):
            raise ValueError(
                f"resnet needs series (channels, length) or images (channels, height, width), the data has shape "
                f"{inputs}; use arch=mlp"
            )
        if not channels:
            raise OptionError("channels", "must have an entry for each stage, got none")
        if kernel % 2 == 0:
            raise OptionError(
                "kernel", f"must be odd, so that a convolution keeps the number of positions; got {kernel}"
            )
        if skip and shortcut == "identity" and channels != sorted(channels):
            raise OptionError("channels", f"an identity cannot make fewer of {channels}; use arch.shortcut=projection")

        def convolved(before: int, after: int, size: int, stride: int) -> list[nn.Module]:
            """A convolution and its normalization."""
            normalized = normalization(after, dims)
            kind = nn.Conv1d if dims == 1 else nn.Conv2d
            convolution = kind(before, after, size, stride, padding=size // 2, bias=normalized is None)
            return [convolution] if normalized is None else [convolution, normalized]

        def block(before: int, after: int, stride: int, site: int) -> ResidualBlock:
            dropped = dropout(site)
            branch = nn.Sequential(
                *convolved(before, after, kernel, stride),
                activation(),
                *([] if dropped is None else [dropped]),
                *convolved(after, after, kernel, 1),
            )
            way: nn.Module | None = None
            if skip and (before != after or stride > 1):
                projects = shortcut == "projection"
                way = (
                    nn.Sequential(*convolved(before, after, 1, stride))
                    if projects
                    else PaddedShortcut(stride, after - before)
                )
            elif skip:
                way = nn.Identity()
            return ResidualBlock(branch, way, activation())

        self.first = nn.Sequential(*convolved(inputs[0], channels[0], kernel, 1), activation())
        before = [channels[0], *(features for features in channels for _ in range(blocks))]
        self.blocks = nn.Sequential(
            *(
                block(before[site], before[site + 1], 2 if site % blocks == 0 and site > 0 else 1, site)
                for site in range(len(before) - 1)
            )
        )
        self.output = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.blocks(self.first(x)).flatten(2).mean(-1))


class ResidualBlock(nn.Module):
    """f(shortcut(x) + branch(x)), or f(branch(x)) where there is no shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.activation(y if self.shortcut is None else y + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Every position that is a multiple of the stride, with so many more channels of zeros."""

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride = stride
        self.more = more

    def extra_repr(self) -> str:
        return f"stride={self.stride}, more={self.more}"

    def forward(self, x: Tensor) -> Tensor:
        dims = x.ndim - 2
        kept = x[:, :, :: self.stride] if dims == 1 else x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0) * dims + (0, self.more))

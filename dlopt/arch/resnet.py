"""Residual networks and their plain twins."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.arch._convolutions import count_dims, make_convolution
from dlopt.base.layer_labels import is_normalization
from dlopt.errors import OptionError
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count

Shortcut = Literal["identity", "projection"]


class ResNet(nn.Module):
    """Stages of residual blocks for series or images; the network of He et al. for CIFAR-10.

        y = f(x + F(x))

    f is the activation and F is convolution, normalization, f, dropout, convolution, normalization. A first convolution
    with normalization and f has channels[0] features. Then each entry of channels has a stage of `blocks` blocks. The
    first block of every stage but the first halves the positions by a stride of 2. The mean over positions goes through
    a linear layer. These are 2 blocks len(channels) + 2 layers: the defaults are ResNet-20, blocks=9 is ResNet-56, and
    blocks=18 is ResNet-110.

    skip=false is the plain twin, y = f(F(x)): the same layers with the same names, and so the same initial weights,
    without the additions that keep a deep network trainable. It has no shortcuts, and so no projections: with
    shortcut=identity both have the same weights, with shortcut=projection the plain one has fewer.

    A convolution before a normalization has no bias, since the normalization has a shift. Without normalization the
    variance grows with the number of blocks; this option selects normalization=batch, as in the paper. Dropout is
    inside F, where it cannot cut the shortcut. regularization=stochastic_depth leaves out whole F.

    channels     output channels of each stage
    blocks       blocks of each stage
    kernel       odd kernel size of all convolutions; they are padded so that only a stride changes the positions
    skip         false omits the additions
    shortcut     if a block changes the shape: identity takes every second position and adds channels of zeros (option A
                 in the paper, no weights), projection is a 1x1 convolution with a normalization (option B)
    zero_gamma   whether the scale of the last normalization of each F is zero at the start: then every block begins as
                 y = f(x), and the network as a shallow one

    Source: He, Zhang, Ren and Sun 2016, sections 3.3 and 4.2; dropout as in Zagoruyko and Komodakis 2016; zero_gamma:
    Goyal et al. 2017, section 5.1.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        drop_path: Callable[[int, int], nn.Module | None],
        channels: list[Count],
        blocks: Count,
        kernel: Count,
        skip: bool,
        shortcut: Shortcut,
        zero_gamma: bool,
    ) -> None:
        super().__init__()
        dims = count_dims("resnet", inputs)
        if not channels:
            raise OptionError("channels", "must have an entry for each stage, got none")
        if kernel % 2 == 0:
            raise OptionError(
                "kernel", f"must be odd, so that a convolution keeps the number of positions; got {kernel}"
            )
        if zero_gamma and not skip:
            raise OptionError("zero_gamma", "makes every block constant without the additions; use arch.skip=true")
        if skip and shortcut == "identity" and channels != sorted(channels):
            raise OptionError("channels", f"an identity cannot make fewer of {channels}; use arch.shortcut=projection")

        def convolve(before: int, after: int, size: int, stride: int) -> list[nn.Module]:
            return make_convolution(before, after, size, normalization, dims, stride)

        def make_block(before: int, after: int, stride: int, site: int) -> ResidualBlock:
            drop = dropout(site)
            first = [*convolve(before, after, kernel, stride), activation(), *([] if drop is None else [drop])]
            last = convolve(after, after, kernel, 1)
            if zero_gamma:
                set_gamma_to_zero(last[-1])
            end = drop_path(site, len(strides)) if skip else None
            branch = nn.Sequential(*first, *last, *([] if end is None else [end]))
            path: nn.Module | None = nn.Identity() if skip else None
            if skip and (before != after or stride > 1):
                if shortcut == "projection":
                    path = nn.Sequential(*convolve(before, after, 1, stride))
                else:
                    path = PaddedShortcut(stride, after - before)
            return ResidualBlock(branch, path, activation())

        self.first = nn.Sequential(*convolve(inputs[0], channels[0], kernel, 1), activation())
        widths = [channels[0], *(features for features in channels for _ in range(blocks))]
        strides = [2 if site % blocks == 0 and site > 0 else 1 for site in range(len(widths) - 1)]
        self.blocks = nn.Sequential(*map(make_block, widths, widths[1:], strides, range(len(strides))))
        self.output = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.blocks(self.first(x)).flatten(2).mean(-1))


def set_gamma_to_zero(normalization: nn.Module) -> None:
    """Set the scale of a branch's last normalization to zero. Raises OptionError if the module has no learned scale."""
    gamma = getattr(normalization, "weight", None) if is_normalization(normalization) else None
    if gamma is None:
        raise OptionError("zero_gamma", "needs a normalization with a learned scale, such as normalization=batch")
    nn.init.zeros_(gamma)


class ResidualBlock(nn.Module):
    """f(shortcut(x) + branch(x)), or f(branch(x)) without a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, activation: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.activation(y if self.shortcut is None else y + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Every position that is a multiple of the stride, with `more` additional channels of zeros."""

    def __init__(self, stride: int, more: int) -> None:
        super().__init__()
        self.stride = stride
        self.more = more

    def extra_repr(self) -> str:
        return f"stride={self.stride}, more={self.more}"

    def forward(self, x: Tensor) -> Tensor:
        dims = x.ndim - 2
        x = x[:, :, :: self.stride] if dims == 1 else x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0) * dims + (0, self.more))

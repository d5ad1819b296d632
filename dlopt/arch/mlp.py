"""A multilayer perceptron."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count


class MLP(nn.Module):
    """Fully connected layers on the flattened input; each hidden one is linear, normalization, activation, dropout.

    widths   units of each hidden layer; [] leaves one linear layer
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        widths: list[Count],
    ) -> None:
        super().__init__()
        hidden: list[nn.Module | None] = []
        before = math.prod(inputs)
        for site, width in enumerate(widths):
            hidden += [nn.Linear(before, width), normalization(width, 0), activation(), dropout(site)]
            before = width
        self.hidden = nn.Sequential(*(layer for layer in hidden if layer is not None))
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x.flatten(1)))

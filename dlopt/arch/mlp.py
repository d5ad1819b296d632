"""A multilayer perceptron."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from dlopt.errors import OptionError
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count


class MLP(nn.Module):
    """Fully connected layers on the flattened input; each hidden one is linear, normalization, activation, dropout.

    A thousand tanh layers preserve signal and gradient with init=orthogonal. Gaussian weights lose both, the sooner the
    narrower the layers are.

    widths   units of each hidden layer; [] gives one linear layer
    depth    number of hidden layers with `width` units each, in place of widths
    width    units of each hidden layer

    Source: Goodfellow, Bengio and Courville 2016, sections 6.1 and 6.3.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        widths: list[Count],
        depth: Count | None,
        width: Count | None,
    ) -> None:
        super().__init__()
        if depth is not None and width is None:
            raise OptionError("width", f"how many units has each of the {depth} hidden layers? add arch.width=100")
        if width is not None and depth is None:
            raise OptionError("depth", f"how many hidden layers of {width} units? add arch.depth=2, or use arch.widths")
        hidden: list[nn.Module | None] = []
        before = math.prod(inputs)
        for site, units in enumerate(widths if depth is None or width is None else [width] * depth):
            hidden += [nn.Linear(before, units), normalization(units, 0), activation(), dropout(site)]
            before = units
        self.hidden = nn.Sequential(*(layer for layer in hidden if layer is not None))
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x.flatten(1)))

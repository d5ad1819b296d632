"""Maxout networks."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from dlopt.parts import Normalization
from dlopt.ranges import Count


class Maxout(nn.Module):
    """Hidden units that are each the largest of several affine functions, on the flattened input.

        h_i(x) = max over j of z_ij,  z_ij = x^T W_..ij + b_ij,  j = 1, ..., pieces

    A unit is convex and piecewise linear, and learns its own activation: two pieces can be a ReLU or an absolute value,
    more pieces approximate any convex function, and one piece is a linear layer. `activation` has no effect except for
    its gain, if an init uses it. A hidden layer is linear, normalization (of every z), maximum, dropout; the last layer
    is linear.

    The affine functions of a layer are the rows of one matrix W, (units pieces, inputs); the rows of a unit are
    adjacent. For an init, fan_in is the number of inputs, and fan_out is units times pieces, which is too large: a
    gradient flows through only one piece of each unit. init=orthogonal gives a layer orthogonal rows, or orthogonal
    columns if it has more rows than inputs.

    He et al. derive no gain for a maximum. The maximum of two independent centred z of variance s^2 has the mean square
    s^2; a ReLU halves it. So with two pieces and equal widths init=lecun_normal keeps activations and gradients level,
    and init=he doubles their squares in each layer, which only a shallow network tolerates. The mean square is 1.28 s^2
    for three pieces and 1.55 s^2 for four, so a deep network grows even with lecun_normal.

    widths   units of each hidden layer; [] gives one linear layer
    pieces   affine functions of each unit

    Source: Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013, section 3, the two equations of h_i and z_ij.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        widths: list[Count],
        pieces: Count,
    ) -> None:
        super().__init__()
        hidden: list[nn.Module | None] = []
        before = math.prod(inputs)
        for site, width in enumerate(widths):
            affine = width * pieces
            hidden += [nn.Linear(before, affine), normalization(affine, 0), MaxoutUnits(pieces), dropout(site)]
            before = width
        self.hidden = nn.Sequential(*(layer for layer in hidden if layer is not None))
        self.output = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x.flatten(1)))


class MaxoutUnits(nn.Module):
    """The maximum over groups of adjacent features: (batch, units pieces) to (batch, units)."""

    activates = True

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def extra_repr(self) -> str:
        return f"{self.pieces}"

    def forward(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (-1, self.pieces)).max(-1).values

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
    more of them come near to any convex function. One piece is a linear layer. There is no other activation, so
    `activation` has no effect, but for its gain where an init asks for one. A hidden layer is linear, normalization (of
    every z), maximum, dropout; the last layer is linear.

    The affine functions of a layer are the rows of one matrix W, (units pieces, inputs), those of a unit next to each
    other. An init sees in fan_in the inputs of a unit, and in fan_out units times pieces, though a gradient comes back
    through one piece of each unit alone: a rule that uses fan_out counts too many. init=orthogonal makes all rows of
    a layer orthogonal, or, where they are more than the inputs, its columns.

    He et al. derive no gain for a maximum. Of two independent centred z of one variance s^2 the maximum has the mean
    square s^2, where a ReLU halves it: with two pieces and equal widths init=lecun_normal keeps activations and
    gradients level, and init=he doubles their squares in each layer, which a few layers bear and a deep net does not.
    Of more pieces it is larger: 1.28 s^2 for three, 1.55 s^2 for four, and a deep net grows even with lecun_normal.

    widths   units of each hidden layer; [] leaves one linear layer
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
    """The largest of every so many features that lie next to each other: (batch, units pieces) to (batch, units)."""

    activates = True

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def extra_repr(self) -> str:
        return f"{self.pieces}"

    def forward(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (-1, self.pieces)).max(-1).values

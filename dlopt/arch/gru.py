"""Gated recurrent units."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.arch._recurrent import Cell, RecurrentNetwork


class GRU(RecurrentNetwork):
    """A recurrent network whose gates decide how much of the state a step replaces.

        r, z = sigmoid(W x_t + b + U h + a),  n = tanh(W x_t + b + r (U h + a)), each with weights of its own
        h <- (1 - z) n + z h

    It has three gates' weights where arch=lstm has four, and no memory besides h. As in torch.nn.GRU, r multiplies U h,
    not h before U as in the paper. Everything else is as in arch=lstm.

    embedding       numbers of the vector of each token; null: width
    width           units of each layer, in each direction
    layers          number of layers
    bidirectional   a second cell reads each layer's inputs from the end, and both outputs are joined
    pooling         what predicts one target of a sequence: the last output, or the mean or maximum of all outputs. With
                    a target for each step, each output predicts its own

    Source: Cho et al. 2014, section 2.3; the form of n is that of cuDNN.
    """

    def make_cell(self, features: int, units: int) -> Cell:
        return GRUCell(features, units)


class GRUCell(Cell, nn.GRU):  # type: ignore[misc]
    """torch.nn.GRU in one layer and direction."""

    def __init__(self, features: int, units: int) -> None:
        nn.GRU.__init__(self, features, units, batch_first=True)

    def run_kernel(self, x: Tensor) -> Tensor:
        return nn.GRU.forward(self, x)[0]

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_ih_l0, self.bias_ih_l0)  # the other bias is inside of r (U h + a)

    def step(self, z: Tensor, state: tuple[Tensor, ...], function: nn.Module | None) -> tuple[Tensor, ...]:
        h = state[0]
        (x_r, x_z, x_n), (h_r, h_z, h_n) = z.chunk(3, -1), F.linear(h, self.weight_hh_l0, self.bias_hh_l0).chunk(3, -1)
        n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return (torch.lerp(n, h, torch.sigmoid(x_z + h_z)),)

"""Long short-term memory."""

import torch
from torch import Tensor, nn

from dlopt.arch._recurrent import Cell, RecurrentNetwork


class LSTM(RecurrentNetwork):
    """A recurrent network whose cells hold a memory c, which gates write, keep and read.

        i, f, o = sigmoid(W x_t + U h + b),  g = tanh(W x_t + U h + b), each with weights of its own
        c <- f c + i g,  h <- o tanh(c)

    x_t are the inputs at step t, or the embedding of its token. A further layer has the outputs h_t of the layer before
    as inputs; dropout acts on them, not on the state. A last linear layer maps h_t, or what `pooling` makes of all h_t,
    to the outputs. Steps of padding change nothing.

    While f is near 1, the memory and its gradient last over many steps. bias_init=forget_gate, which this option
    selects, starts there. W and U are stacked matrices of the four gates, as in torch.nn.LSTM; an init draws each gate
    by itself. U starts orthogonal, since this option selects init=orthogonal.

    A single run takes the kernel of torch. Lanes, second derivatives and gradients of examples take plain operations,
    which are slower on long sequences.

    embedding       numbers of the vector of each token; null: width
    width           units of each layer, in each direction
    layers          number of layers
    bidirectional   a second cell reads each layer's inputs from the end, and both outputs are joined
    pooling         what predicts one target of a sequence: the last output, or the mean or maximum of all outputs. With
                    a target for each step, each output predicts its own

    Source: Hochreiter and Schmidhuber 1997; the forget gate: Gers, Schmidhuber and Cummins 2000, section 3; its bias:
    Jozefowicz, Zaremba and Sutskever 2015, section 2.2; dropout: Zaremba, Sutskever and Vinyals 2014, section 3.1; both
    directions: Schuster and Paliwal 1997.
    """

    def make_cell(self, features: int, units: int) -> Cell:
        return LSTMCell(features, units)


class LSTMCell(Cell, nn.LSTM):  # type: ignore[misc]
    """torch.nn.LSTM in one layer and direction."""

    def __init__(self, features: int, units: int) -> None:
        nn.LSTM.__init__(self, features, units, batch_first=True)

    def run_kernel(self, x: Tensor) -> Tensor:
        return nn.LSTM.forward(self, x)[0]

    def step(self, z: Tensor, state: tuple[Tensor, ...], function: nn.Module | None) -> tuple[Tensor, ...]:
        h, c = state
        i, f, g, o = self.add_state(z, h).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

"""Open forget gates."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlopt.base.layout import Parameter
from dlopt.parts import InitProbe


@dataclass(frozen=True)
class ForgetGate:
    """b_f = value in every LSTM of the network; all other biases are zero.

    A cell keeps the fraction f = sigmoid(W x + U h + b_f) of its memory at each time step. With b_f = 0 it is about a
    half: an input n steps ago has weight 2^-n, and so has its gradient. With b_f = 1 it is 0.73.

    torch.nn.LSTM adds two biases; b_f is their sum, and the second one is zero. A network without an LSTM is refused.

    value   b_f

    Source: Jozefowicz, Zaremba and Sutskever 2015, section 2.2; Gers, Schmidhuber and Cummins 2000.
    """

    value: float

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.zeros(parameter.shape)

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        w = w.clone()
        recurrent = [p for p in start.layout if isinstance(start.owners[p.name], (nn.LSTM, nn.LSTMCell))]
        first = [p for p in recurrent if p.name.rpartition(".")[2].startswith("bias_ih")]
        if not first:
            raise ValueError(
                "forget_gate needs a torch.nn.LSTM with biases in the net, and there is none: use bias_init=zeros"
            )
        for p in first:
            w[p.slice].chunk(4)[1].fill_(self.value)  # torch's order: input, forget, cell, output
        return w

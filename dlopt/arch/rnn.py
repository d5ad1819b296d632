"""Simple recurrent networks."""

from collections.abc import Callable

from torch import Tensor, nn

from dlopt.arch._recurrent import Cell, HiddenStates, RecurrentNetwork
from dlopt.arch._steps import Pooling
from dlopt.parts import Activation
from dlopt.ranges import Count

_Kernel = tuple[str | None, tuple[float, float] | None]
_KERNELS: dict[type[nn.Module], _Kernel] = {
    nn.Tanh: ("tanh", (-1.0, 1.0)),
    nn.ReLU: ("relu", None),
}
"""Activations that torch has kernels for: their names there, and the limits of their outputs."""


class RNN(RecurrentNetwork):
    """A recurrent network whose state is one nonlinear function of inputs and last state.

        h <- f(W x_t + U h + b)

    f is the activation; this option selects activation=tanh, and init=orthogonal. The gradient with respect to a state
    n steps ago is a product of n matrices U' diag(f'), which vanishes or explodes with n. arch=lstm and arch=gru have
    longer memories; clip.norm limits explosions. activation=relu with init=orthogonal is close to the IRNN, whose U
    starts as the identity.

    Everything else is as in arch=lstm. Only tanh and relu have a kernel in torch; others take plain operations.

    embedding       numbers of the vector of each token; null: width
    width           units of each layer, in each direction
    layers          number of layers
    bidirectional   a second cell reads each layer's inputs from the end, and both outputs are joined
    pooling         what predicts one target of a sequence: the last output, or the mean or maximum of all outputs. With
                    a target for each step, each output predicts its own

    Source: Elman 1990; Goodfellow, Bengio and Courville 2016, section 10.2; Le, Jaitly and Hinton 2015 for relu.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        tokens: int | None,
        per_step: bool,
        padded: bool,
        activation: Activation,
        dropout: Callable[[int], nn.Module | None],
        embedding: Count | None,
        width: Count,
        layers: Count,
        bidirectional: bool,
        pooling: Pooling,
    ) -> None:
        self._activation = activation
        self._kernel, self._bounds = _KERNELS.get(type(activation()), (None, None))
        super().__init__(
            inputs, outputs, tokens, per_step, padded, dropout, embedding, width, layers, bidirectional, pooling
        )

    def make_cell(self, features: int, units: int) -> Cell:
        return RNNCell(features, units, self._kernel)

    def make_states(self) -> HiddenStates:
        function = self._activation()
        return HiddenStates(self._bounds if self._kernel else getattr(function, "bounds", None), function)


class RNNCell(Cell, nn.RNN):  # type: ignore[misc]
    """torch.nn.RNN in one layer and direction, for any activation; kernel names the one that torch has for it."""

    def __init__(self, features: int, units: int, kernel: str | None) -> None:
        nn.RNN.__init__(self, features, units, nonlinearity=kernel or "tanh", batch_first=True)
        self.has_kernel = kernel is not None

    def run_kernel(self, x: Tensor) -> Tensor:
        return nn.RNN.forward(self, x)[0]

    def step(self, z: Tensor, state: tuple[Tensor, ...], function: nn.Module | None) -> tuple[Tensor, ...]:
        assert function is not None
        return (function(self.add_state(z, state[0])),)

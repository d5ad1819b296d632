"""Recurrent networks: what the options rnn, gru and lstm share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.arch._steps import Pooling, check_shape, make_dropout, pool_steps, read_steps, reverse_steps
from dlopt.base.kernels import may_use_fused_kernels
from dlopt.ranges import Count


class RecurrentNetwork(nn.Module):
    """Layers of recurrent cells on a sequence, and a linear layer: see the options, which make the cells."""

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        tokens: int | None,
        per_step: bool,
        padded: bool,
        dropout: Callable[[int], nn.Module | None],
        embedding: Count | None,
        width: Count,
        layers: Count,
        bidirectional: bool,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        check_shape(type(self).__name__.lower(), inputs, tokens)
        self.per_step, self.padded, self.pooling = per_step, padded, pooling
        before = inputs[0] if tokens is None else embedding or width
        self.embedding = None if tokens is None else nn.Embedding(tokens, before)
        self.hidden = nn.ModuleList()
        for site in range(layers):
            cells = [self.make_cell(before, width) for _ in range(1 + bidirectional)]
            self.hidden.append(RecurrentLayer(cells, self.make_states(), make_dropout(dropout, site)))
            before = width * len(cells)
        self.output = nn.Linear(before, outputs)

    def make_cell(self, features: int, units: int) -> Cell:
        """Return a new cell for inputs with these features."""
        raise NotImplementedError

    def make_states(self) -> HiddenStates:
        """Return the module of a layer's outputs; they are between -1 and 1 by default."""
        return HiddenStates((-1.0, 1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        x, mask = read_steps(inputs, padded=self.padded)
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.hidden:
            x = layer(x, mask)
        return self.output(x if self.per_step else self._pool(x, mask))

    def _pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Pool over steps; the last state of the cell that reads backwards is at the first step."""
        if self.pooling != "last" or self.hidden[-1].reverse is None:
            return pool_steps(x, mask, self.pooling)
        forward, backward = x.chunk(2, -1)
        return torch.cat([pool_steps(forward, mask, "last"), backward[:, 0]], -1)


class RecurrentLayer(nn.Module):
    """One cell on all steps, or two that read in both directions; maps (B, T, features) to (B, T, units)."""

    def __init__(self, cells: Sequence[Cell], states: HiddenStates, dropout: nn.Module | None) -> None:
        super().__init__()
        self.cell = cells[0]
        self.reverse = cells[1] if len(cells) > 1 else None
        self.activation = states
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        function = self.activation.function
        h = self.cell(x, function)
        if self.reverse is not None:
            backward = self.reverse(reverse_steps(x, mask), function)
            h = torch.cat([h, reverse_steps(backward, mask)], -1)
        if mask is not None:
            h = torch.where(mask.unsqueeze(-1), h, 0.0)
        h = self.activation(h.mT).mT
        return h if self.dropout is None else self.dropout(h)


class HiddenStates(nn.Module):
    """The outputs of a recurrent layer, (B, units, T), unchanged: diagnostics of activations read them here.

    The kernels of torch compute all steps at once and call no module for the activation. function is the activation of
    the cells, if they have one to choose.
    """

    activates = True

    def __init__(self, bounds: tuple[float, float] | None, function: nn.Module | None = None) -> None:
        super().__init__()
        self.bounds = bounds
        self.function = function

    def forward(self, h: Tensor) -> Tensor:
        return h


class Cell(nn.Module):
    """A recurrent layer of torch in one direction: its kernel, or plain operations with the same results.

    Classes derive from it and from a layer of torch.nn, whose parameters they have.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor
    has_kernel = True

    def run_kernel(self, x: Tensor) -> Tensor:
        """Return the states of all steps, (B, T, units), by the kernel."""
        raise NotImplementedError

    def step(self, z: Tensor, state: tuple[Tensor, ...], function: nn.Module | None) -> tuple[Tensor, ...]:
        """Return the next state, (B, units) first, from the projected inputs (B, gates units) and the last state."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """Return W x + b of the inputs of all steps at once, (B, T, gates units)."""
        return F.linear(x, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)

    def add_state(self, z: Tensor, h: Tensor) -> Tensor:
        """Return z + U h."""
        return torch.addmm(z, h, self.weight_hh_l0.mT)

    def forward(self, x: Tensor, function: nn.Module | None) -> Tensor:
        if self.has_kernel and may_use_fused_kernels():
            return self.run_kernel(x)
        products = self.project(x)
        zeros = products.new_zeros(x.shape[0], self.weight_hh_l0.shape[1])
        state: tuple[Tensor, ...] = (zeros, zeros)
        states = []
        for z in products.unbind(1):
            state = self.step(z, state, function)
            states.append(state[0])
        return torch.stack(states, 1)

"""Initializations: of one parameter, of the network in place, and by the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dlopt.base.group import Group
from dlopt.base.layout import Layout, Parameter


@Group("init")
@Group("bias_init")
class Init(Protocol):
    """Draws the initial values of one parameter: of every weight (group init) or of every bias (group bias_init)."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor | None:
        """Return a tensor of parameter.shape, or None to keep the values that the module has drawn."""


class LayerGradients(NamedTuple):
    """The gradient of the mini-batch loss by the inputs and by the outputs of a layer.

    None stands for no gradient, as for integer inputs of the first layer.
    """

    inputs: Tensor | None
    outputs: Tensor | None


class InitProbe(Protocol):
    """The network on one mini-batch before training, at any w, (P,): normalizations as in training, nothing random.

    inputs and targets are examples of the training split, all_targets the targets of the whole split. owners maps each
    parameter to its module. A layer is a module with exactly one weight whose output is a tensor. Layers are named by
    their weights, in the order of execution. If a layer is used several times, the first use counts.
    """

    layout: Layout
    inputs: Tensor
    targets: Tensor
    all_targets: Tensor
    owners: Mapping[str, nn.Module]

    def outputs(self, w: Tensor) -> Tensor:
        """Return the outputs of the network, (B, outputs)."""

    def rescale_layers(self, w: Tensor, factor: Callable[[Parameter, Tensor], float | None]) -> Tensor:
        """Return a new w after one forward pass in which the weights of each layer are scaled in turn.

        factor is called with a layer's weight and the layer's outputs. If it returns a number, the weights are
        multiplied by it and factor is called again with the new outputs; None ends the layer.
        """

    def layer_outputs(self, w: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the activation after each layer, or of the layer if no activation follows."""

    def gradients(self, w: Tensor) -> dict[str, LayerGradients]:
        """Return the gradients of the loss by inputs and outputs of each layer."""


@runtime_checkable
class InPlaceInit(Init, Protocol):
    """An init that writes values into the network before anything is drawn, and may freeze parameters."""

    def prepare(self, model: nn.Module, saved: Mapping[str, Tensor] | None) -> Collection[str]:
        """Return the names of parameters that keep their current values; frozen ones among them are not trained.

        saved is the state dict of the network if the run resumes from a checkpoint: then no other file is needed.
        """


@runtime_checkable
class DataDependentInit(Init, Protocol):
    """An init that uses data after all parameters are drawn: weights first, then biases."""

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        """Return a new w, (P,), in which only parameters of the group differ. Raise ValueError if it is impossible."""

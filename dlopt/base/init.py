"""Initializations: of one parameter, of a module in place, and by looking at data."""

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
        """A tensor of parameter.shape, or None to keep what the module itself has drawn."""


class LayerGradients(NamedTuple):
    """The gradient of the mini-batch loss by what goes into a layer and by what it puts out; None where there is none.

    None goes into the first layer where inputs are whole numbers.
    """

    inputs: Tensor | None
    outputs: Tensor | None


class InitProbe(Protocol):
    """The network on one mini-batch before training, at any w, (P,): normalizations as in training, nothing random.

    inputs and targets are some examples of the training split, all_targets are those of the whole split. owners names
    the module that each parameter belongs to. A layer is a module with one weight of its own that puts out a tensor;
    layers are called by the names of their weights, in the order in which they are executed. Of one that is used
    several times the first use counts.
    """

    layout: Layout
    inputs: Tensor
    targets: Tensor
    all_targets: Tensor
    owners: Mapping[str, nn.Module]

    def outputs(self, w: Tensor) -> Tensor:
        """What the network makes of the inputs, (B, outputs)."""

    def rescale_layers(self, w: Tensor, factor: Callable[[Parameter, Tensor], float | None]) -> Tensor:
        """A new w, after one walk through the network in which the weights of each layer are scaled in turn.

        factor is called with a layer's weight and what the layer puts out. A number multiplies the weights, and it is
        called again with what they make then; with None the walk goes on to the next layer.
        """

    def layer_outputs(self, w: Tensor) -> dict[str, Tensor]:
        """What each layer hands on: the outputs of the activation behind it, or its own where none follows."""

    def gradients(self, w: Tensor) -> dict[str, LayerGradients]:
        """The gradients of the loss at both ends of each layer."""


@runtime_checkable
class InPlaceInit(Init, Protocol):
    """An init that puts values into the network before anything is drawn, and may freeze some of it."""

    def prepare(self, model: nn.Module, saved: Mapping[str, Tensor] | None) -> Collection[str]:
        """The parameters that keep what they have now; of these, what no longer requires gradients is not trained.

        saved is the network's own state dict where the run goes on from a checkpoint: then nothing else need be read.
        """


@runtime_checkable
class DataDependentInit(Init, Protocol):
    """An init that goes on to look at data, once all parameters have been drawn: weights first, then biases."""

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        """A new w, (P,), of which only what the group is for may differ. ValueError says why there can be none."""

"""A search for the scale of each layer."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.parts import InitProbe
from dlopt.ranges import Count, Positive, Range


@dataclass(frozen=True)
class LayerScale:
    """W ~ N(0, std^2). Then the scales of all layers change together until the signals of a mini-batch are level:

        while a layer has |s_i / target - 1| > tolerance:   W_i <- W_i s_(i-1) / s_i  for all i,  with s_0 = target

        of=activations   s_i is the standard deviation of the outputs of the activation after layer i, or of the layer
                         itself if none follows. Layers are counted from the inputs.
        of=gradients     s_i is the standard deviation of the gradient of the loss by the inputs of layer i, divided by
                         the one by the outputs of the network. Layers are counted from the outputs.

    s_i / s_(i-1) is the factor of layer i. Standard deviations are over examples, units and positions. A chain of ReLU
    layers with zero biases is level after one change; others need more.

    Bounded units saturate near their limit, 1 for tanh and 0.5 for sigmoid: set target well below it. Before a
    normalization the scale of a layer has no effect. If a layer does not become level, the run is refused. Gradients do
    not pass dead units: if a small std in many layers gives zero outputs, gradients cannot be levelled; activations
    become level piece by piece.

    of          what becomes level: activations or gradients
    target      their standard deviation; for gradients, as a multiple of the one at the outputs of the network
    tolerance   largest relative error
    tries       largest number of changes
    std         standard deviation at the start

    Source: Goodfellow, Bengio and Courville 2016, section 8.4, where it is done by hand, layer by layer.
    """

    of: Literal["activations", "gradients"]
    target: Positive
    tolerance: Annotated[float, Range(gt=0, lt=1)]
    tries: Count
    std: Positive

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * self.std

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        w = w.clone()
        slices = {p.name: p.slice for p in start.layout}
        measure = activation_stds if self.of == "activations" else gradient_stds
        for changes in range(self.tries + 1):
            stds = measure(w, start)
            uneven = next((n for n, s in stds.items() if not abs(s / self.target - 1.0) <= self.tolerance), None)
            if uneven is None:
                break
            if changes == self.tries:
                raise ValueError(
                    f"the {self.of} of {uneven} do not become level: {stds[uneven]:.3g} after {self.tries} tries, "
                    f"the target is {self.target:g}. Before a normalization scale has no effect, and bounded units "
                    "have a limit: change target, or use another init"
                )
            if stds[uneven] == 0.0:
                raise ValueError(
                    f"the {self.of} of {uneven} do not become level: they are zero, which no scale changes, and all "
                    "before them are level. Use a larger std, or another init"
                )
            before = self.target
            for name, s in stds.items():
                if not 0.0 < s < math.inf:  # too deep for a signal, until the layers before it are level
                    break
                w[slices[name]] *= before / s
                before = s
        return w


def activation_stds(w: Tensor, start: InitProbe) -> dict[str, float]:
    """Return the standard deviation of the activations of each layer, from the inputs on."""
    return {name: _std(outputs) for name, outputs in start.layer_outputs(w).items()}


def gradient_stds(w: Tensor, start: InitProbe) -> dict[str, float]:
    """Return the standard deviation of the gradient by the inputs of each layer, from the outputs on.

    The unit is the standard deviation of the gradient by the outputs of the network.
    """
    gradients = start.gradients(w)
    *_, last = gradients.values()
    assert last.outputs is not None  # the loss depends on them
    unit = _std(last.outputs)
    return {name: _std(g.inputs) / unit for name, g in reversed(gradients.items()) if g.inputs is not None}


def _std(x: Tensor) -> float:
    return float(x.std(correction=0))

"""A search for the scale of each layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.parts import InitProbe
from dlopt.ranges import Count, Positive, Range


@dataclass(frozen=True)
class LayerScale:
    """W ~ N(0, std^2). Then the scales of all layers are changed together, until those of a mini-batch are level:

        while a layer has |s_i / target - 1| > tolerance:   W_i <- W_i s_(i-1) / s_i  for all i,  with s_0 = target

        of=activations   s_i is the standard deviation of what layer i hands on: the outputs of the activation behind
                         it, or its own where none follows. Layers are counted from the inputs.
        of=gradients     s_i is that of the gradient of the loss by what goes into layer i, divided by that of the
                         gradient by the network's outputs. Layers are counted from the outputs.

    s_i / s_(i-1) is by how much layer i multiplies. Standard deviations are over all numbers: examples, units and
    positions. A chain of ReLU layers with biases zero is level after one change; others take some more.

    Bounded units have a limit, 1 for tanh and 0.5 for sigmoid, near which they saturate: take a target well below it.
    Before a normalization the scale of a layer has no effect. Where a layer does not become level the run is refused.
    Gradients do not come through units that are silent: so many layers of a small std that nothing arrives at the
    outputs leave them nothing to be made level by, where activations become level piece by piece.

    of          what is made level: activations or gradients
    target      their standard deviation; of gradients, as a multiple of that at the network's outputs
    tolerance   the relative error that may be left
    tries       at most so many changes
    std         standard deviation that the search begins with

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
        measured = activation_stds if self.of == "activations" else gradient_stds
        found = measured(w, start)
        for _ in range(self.tries):
            uneven = self._find_uneven(found)
            if not uneven:
                return w
            if found[uneven[0]] == 0.0:
                raise ValueError(
                    f"the {self.of} of {uneven[0]} do not become level: they are zero where all before them are level, "
                    "which no scale changes. Begin with a larger std, or use another init"
                )
            before = self.target
            for name, s in found.items():
                if not 0.0 < s < math.inf:  # so deep that nothing arrives: it will when those before are level
                    break
                w[slices[name]] *= before / s
                before = s
            found = measured(w, start)
        uneven = self._find_uneven(found)
        if uneven:
            raise ValueError(
                f"the {self.of} of {uneven[0]} do not become level: {found[uneven[0]]:.3g} after {self.tries} tries, "
                f"the target is {self.target:g}. Before a normalization scale has no effect, and bounded units have a "
                "limit: change target, or use another init"
            )
        return w

    def _find_uneven(self, found: Mapping[str, float]) -> list[str]:
        return [name for name, s in found.items() if not abs(s / self.target - 1.0) <= self.tolerance]


def activation_stds(w: Tensor, start: InitProbe) -> dict[str, float]:
    """The standard deviation of what each layer hands on, from the inputs on."""
    return {name: _std(outputs) for name, outputs in start.layer_outputs(w).items()}


def gradient_stds(w: Tensor, start: InitProbe) -> dict[str, float]:
    """That of the gradient by what goes into each layer, in units of that by the network's outputs, from there on."""
    found = start.gradients(w)
    *_, last = found.values()
    assert last.outputs is not None  # the loss depends on them
    unit = _std(last.outputs)
    return {name: _std(g.inputs) / unit for name, g in reversed(found.items()) if g.inputs is not None}


def _std(x: Tensor) -> float:
    return float(x.std(correction=0))

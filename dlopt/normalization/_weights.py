"""Layers whose weight is a function of other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are normalized: matrices (units, inputs), and kernels (units, inputs, ...)."""


class WeightFunction(nn.Module):
    """A layer of torch whose attribute `weight` is computed from parameters at each use.

    A class derives from it, with its own `compute_weight` and `prepare`. `convert` makes a layer one of this class.
    """

    @property
    def weight(self) -> Tensor:
        return self.compute_weight()

    def compute_weight(self) -> Tensor:
        raise NotImplementedError

    def prepare(self, weight: nn.Parameter) -> None:
        """Register the parameters that replace the weight."""
        raise NotImplementedError


def convert_layers(model: nn.Module, kind: type[WeightFunction], configure: Callable[[Any], None]) -> nn.Module:
    """Turn the linear layers and convolutions of a network into layers with computed weights; return the network.

    configure sets the attributes of each of them. Raises ValueError if the network has no such layer.
    """
    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, LAYERS) and "weight" in module._parameters
    ]
    if not layers:
        raise ValueError("the network has neither linear layers nor convolutions, whose weights it normalizes")
    for layer in layers:
        weight = layer.weight
        del layer.weight
        layer.__class__ = _derive(kind, type(layer))  # type: ignore[arg-type]
        configure(layer)
        layer.prepare(weight)
    return model


def iterate_layers(model: nn.Module, kind: type[WeightFunction]) -> Iterator[tuple[str, Any]]:
    """Yield the converted layers with their names."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


@cache
def _derive(kind: Any, layer: Any) -> type[nn.Module]:
    """Return the class of a layer of this class with weights of this kind; it has the name of the layer's class."""
    return type(layer.__name__, (kind, layer), {"__module__": layer.__module__})

"""The hidden units of a network: which modules are activations, where they are bounded, and what they put out.

An activation is a module with the mark `activates`, as those have that the configured activation made for an arch, and
in people's own networks any of torch's own that works on each number by itself and has no weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_MIXING = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU)
"""torch's activations without weights that put several numbers into one: their outputs are no units'."""
_BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
}


class MarkedActivationFactory:
    """A maker of activations whose modules can be told from others afterwards; in all else the maker itself."""

    def __init__(self, maker: Any) -> None:
        self.factory = maker

    def __call__(self, *inputs: Any) -> nn.Module:
        if inputs:
            raise TypeError(
                "activation makes modules: call it once for each layer in __init__, self.act = activation()"
            )
        module = self.factory()
        module.activates = True
        return module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a copy is asked for these before it has a maker
            raise AttributeError(name)
        return getattr(self.factory, name)


def find_activations(model: nn.Module) -> dict[str, nn.Module]:
    """The activations of a network, by their names in it."""
    return {name: m for name, m in model.named_modules() if getattr(m, "activates", False) or _is_torch_activation(m)}


def get_bounds(module: nn.Module) -> tuple[float, float] | None:
    """The limits between which an activation's outputs lie, if there are two; one's own module says `bounds`."""
    if isinstance(module, nn.Hardtanh):
        return module.min_val, module.max_val
    return getattr(module, "bounds", _BOUNDS.get(type(module)))


@contextmanager
def record_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """A dictionary that takes in what these modules put out, by name; of several uses in one forward the last."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.detach().clone()  # what comes behind may overwrite it

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_torch_activation(module: nn.Module) -> bool:
    kind = type(module)  # exactly: a subclass has a forward of its own
    own = kind.__module__ == nn.modules.activation.__name__ and kind not in _MIXING
    return own and not any(True for _ in module.parameters())

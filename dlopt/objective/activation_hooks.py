"""Activations of a network: the modules, their bounds, their kinks and their outputs.

A module is an activation if it has the attribute `activates`, which the configured activation sets, or if it is an
elementwise activation of torch without weights, as in custom networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MIXING = (nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU)
"""Activations of torch without weights that are not elementwise."""
_BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
}


KINK_RANGE, KINK_STEP = 8.0, 2.0**-7
"""Inputs from -8 to 8, and the distance between them, at which `has_kinks` measures slopes."""
JOINT_FEATURES = 60
"""Number of features for activations that combine adjacent ones; a multiple of the usual numbers of pieces."""


class MarkedActivationFactory:
    """A factory of activations that marks its modules; all other attributes are those of the wrapped factory."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory

    def __call__(self, *inputs: Any) -> nn.Module:
        if inputs:
            raise TypeError(
                "activation makes modules: call it once for each layer in __init__, self.act = activation()"
            )
        module = self.factory()
        module.activates = True
        return module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy.copy looks them up before `factory` is set
            raise AttributeError(name)
        return getattr(self.factory, name)


def find_activations(model: nn.Module) -> dict[str, nn.Module]:
    """Return the activations of a network by name, without those that are parts of another activation."""
    marked = [f"{name}." for name, m in model.named_modules() if name and getattr(m, "activates", False)]
    return {
        name: m
        for name, m in model.named_modules()
        if (getattr(m, "activates", False) or _is_torch_activation(m)) and not name.startswith(tuple(marked))
    }


def get_bounds(module: nn.Module) -> tuple[float, float] | None:
    """Return the limits of an activation's outputs if there are two; custom modules have an attribute `bounds`."""
    if isinstance(module, nn.Hardtanh):
        return module.min_val, module.max_val
    return getattr(module, "bounds", _BOUNDS.get(type(module)))


def has_kinks(module: nn.Module) -> bool:
    """Return whether the slope of an activation jumps between inputs from -8 to 8, as that of ReLU does at 0.

    It is measured on a copy. An activation that takes only other shapes of inputs counts as smooth.
    """
    module = copy.deepcopy(module).double().eval()
    for features in (1, JOINT_FEATURES, *(p.numel() for p in module.parameters())):
        try:
            slopes, curvatures = _measure_slopes(module, features)
        except (RuntimeError, ValueError, TypeError, IndexError):
            continue
        smooth = 1.5 * KINK_STEP * curvatures.abs().max() + 1e-6 * slopes.abs().max()
        return bool((slopes.diff().abs() > smooth).any())
    return False


def _measure_slopes(module: nn.Module, features: int) -> tuple[Tensor, Tensor]:
    """Return f' and f'' of the summed outputs f(t), where the features are t, -t, t, ... and a little shifted."""
    t = torch.arange(-KINK_RANGE + KINK_STEP / 3, KINK_RANGE, KINK_STEP, dtype=torch.float64).requires_grad_()
    index = torch.arange(features)
    with torch.enable_grad():
        x = t.unsqueeze(-1) * (1.0 - 2.0 * (index % 2)) + KINK_STEP * index
        (slopes,) = torch.autograd.grad(module(x).sum(), t, create_graph=True)
        curvatures = torch.autograd.grad(slopes.sum(), t)[0] if slopes.requires_grad else torch.zeros_like(t)
    return slopes.detach(), curvatures


@contextmanager
def record_outputs(
    modules: Mapping[str, nn.Module], summarize: Callable[[Tensor], Tensor] = torch.clone
) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that receives the outputs of these modules by name, from the last use of each module.

    summarize   function of the outputs of which the results are kept; its result must not share their memory, which
                a later module may overwrite
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name] = summarize(output.detach())

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _is_torch_activation(module: nn.Module) -> bool:
    kind = type(module)  # exactly: a subclass has a forward of its own
    own = kind.__module__ == nn.modules.activation.__name__ and kind not in _MIXING
    return own and not any(True for _ in module.parameters())

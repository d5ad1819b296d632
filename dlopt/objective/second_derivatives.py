"""Second derivatives of networks: kernels that have them, and the layers that have none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlopt.base.kernels import use_plain_operations
from dlopt.formatting import get_first_line
from dlopt.storage import memory


class LayerError(ValueError):
    """A layer of the network cannot be differentiated twice; the message names it."""


@contextmanager
def second_derivatives(model: nn.Module, inputs: Tensor, *, is_recurrent: bool) -> Iterator[None]:
    """Take kernels that can be differentiated twice inside this block; is_recurrent: see `has_recurrent_layers`.

    If the block fails, and layers of the network cannot be differentiated twice at these examples, raises LayerError
    with their names.
    """
    try:
        with allow_second_derivatives(is_recurrent=is_recurrent):
            yield
    except RuntimeError as error:
        if memory.is_out_of_memory(error):
            raise
        if names := find_layers_without_second_derivative(model, inputs):
            remedy = "put another layer in its place, or leave out what needs second derivatives"
            raise LayerError(
                f"{', '.join(names)} has no second derivative ({get_first_line(error)}); {remedy}"
            ) from error
        raise


@contextmanager
def allow_second_derivatives(*, is_recurrent: bool) -> Iterator[None]:
    """Let attention and recurrent layers take kernels that can be differentiated twice: the fused ones cannot be."""
    flags = torch.backends.cudnn.flags(enabled=False) if is_recurrent else nullcontext()
    with use_plain_operations(), sdpa_kernel(SDPBackend.MATH), flags:
        yield


def has_recurrent_layers(model: nn.Module) -> bool:
    """Return whether a network has layers of torch.nn that cuDNN may evaluate."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


def find_layers_without_second_derivative(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of the innermost modules that raise an error when they are differentiated twice."""
    model = copy.deepcopy(model).eval()
    names: list[str] = []
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    innermost = {name: module for name, module in model.named_modules() if not list(module.children())}
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: arguments.update({name: (args, kwargs)}), with_kwargs=True
        )
        for name, module in innermost.items()
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    with allow_second_derivatives(is_recurrent=has_recurrent_layers(model)):
        for name, (args, kwargs) in arguments.items():
            try:
                _differentiate_twice(innermost[name], args, kwargs)
            except RuntimeError as error:
                if memory.is_out_of_memory(error):
                    raise
                names.append(f"{name} ({type(innermost[name]).__name__})")
    return names


def _differentiate_twice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Take a second derivative of the square of a module's output."""
    leaves = [x.detach().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in args]
    sources = [x for x in (*leaves, *module.parameters()) if torch.is_tensor(x) and x.requires_grad]
    outputs = module(*(x.clone() if torch.is_tensor(x) else x for x in leaves), **kwargs)  # it may change them in place
    output = outputs[0] if isinstance(outputs, tuple) else outputs
    if sources and output.requires_grad:
        first = torch.autograd.grad(output.square().sum(), sources, create_graph=True, allow_unused=True)
        total = torch.stack([g.square().sum() for g in first if g is not None]).sum()
        torch.autograd.grad(total, sources, allow_unused=True)

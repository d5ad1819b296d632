"""The graph of a network, traced by torch.export."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from dlopt.config.problems import ConfigError, locate_error
from dlopt.export.inference_module import InferenceModule
from dlopt.export.silence import silence

WEIGHTS_ONLY = "--to safetensors writes the weights alone"


def trace(module: InferenceModule, inputs: Tensor, *, any_length: bool) -> ExportedProgram:
    """Return the graph for any number of examples, and with any_length for other lengths of sequences, if it can be.

    inputs give the shape and type of an example, and do not get into the graph. Source lines of this machine are
    removed. Raises ConfigError for a network that torch.export cannot trace.
    """
    count = 3 if 2 in inputs.shape[1:] else 2  # unlike the other dimensions, so that it stays a dimension of its own
    example = inputs.new_zeros if inputs.is_floating_point() else inputs.new_ones  # 0 would be padding
    dimensions = {0: Dim.DYNAMIC} | ({inputs.ndim - 1: Dim.AUTO} if any_length else {})
    try:
        with silence(), torch.no_grad():
            example_inputs = (example(count, *inputs.shape[1:]),)
            shapes = {"inputs": dimensions}
            program = torch.export.export(module, example_inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # any network raises its own
        raise ConfigError([("arch", _describe(error))]) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _describe(error: Exception) -> str:
    """Return why a network cannot be traced, and the remedy."""
    message = str(error)
    if "specialized it to be a constant" in message:
        return f"the network takes the number of examples for a constant: write x.shape[0], not len(x); {WEIGHTS_ONLY}"
    where = locate_error(error)
    if "data-dependent" in message:
        place = re.search(r"\(([^()]+\.py, line \d+)\)$", where)
        what = f"the network branches on values of tensors{f' in {place[1]}' if place else ''}"
        return f"{what}: use torch.where; {WEIGHTS_ONLY}"
    return f"torch.export cannot trace the network ({where}); {WEIGHTS_ONLY}"


def find_operation(error: BaseException) -> str | None:
    """Return the operation of torch that an exporter's error is about, such as aten.special_bessel_j0.default."""
    for cause in _iter_causes(error):
        if match := re.search(r"\[target=torch\.ops\.([\w.]+)\]", str(cause)):
            return match[1]
    return None


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def find_layers(program: ExportedProgram, operation: str) -> list[str]:
    """Return the layers that use an operation of a graph, or what became this operation, each as `name (class)`."""
    name = operation.split(".")[-2]  # aten.special_bessel_j0.default becomes prims.bessel_j0.default
    stacks = [node.meta.get("nn_module_stack") for node in program.graph.nodes if name in str(node.target)]
    innermost = [list(stack.values())[-1] for stack in stacks if stack]
    layers = [(path.removeprefix("network").lstrip("."), str(cls).rpartition(".")[2]) for path, cls in innermost]
    return list(dict.fromkeys(f"{path} ({cls})" if path else cls for path, cls in layers))

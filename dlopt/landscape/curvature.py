"""Products with the second derivatives of a network's loss over a whole split, at its loaded weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.prng import Key
from dlopt.training.batches import Examples
from dlopt.training.evaluation import get_chunk_size
from dlopt.training.inference import Predictor

PRODUCTS: dict[str, Callable[[MiniBatchObjective, Tensor, Tensor], Tensor]] = {"hessian": MiniBatchObjective.hvp}
"""The products of the objective, by the names of the matrices."""


class LayerError(ValueError):
    """A layer of the network cannot be differentiated twice; the message names it."""


class SplitCurvature:
    """The matrix A of the mean loss over a split, as in inference: `multiply` returns A v.

    Dropout is off, and batch normalization uses its stored statistics: the loss is the one that `evaluate` reports,
    without penalties. Examples are taken in chunks, so memory does not depend on the size of the split.
    """

    def __init__(
        self, predictor: Predictor, examples: Examples, matrix: str, advance: Callable[[int], None] = lambda count: None
    ) -> None:
        """Copy the network at its present weights. advance is called with the number of examples of each chunk."""
        self.examples = examples
        self._rules = predictor.problem.regularization
        self._problem = Problem(copy.deepcopy(predictor.model), predictor.loss)
        self._problem.model.eval()
        self.w = self._problem.bind(predictor.w.clone())
        self._product = PRODUCTS[matrix]
        self._chunk = get_chunk_size(predictor.problem)
        self._advance = advance

    def multiply(self, v: Tensor) -> Tensor:
        """Return A v, (P,). Raises LayerError if a layer has no second derivative."""
        total = torch.zeros_like(v)
        try:
            with allow_second_derivatives(self._problem.model):
                for x, y in self._chunks():
                    objective = MiniBatchObjective(self._problem, x, y, Key(0, 0))
                    total += self._product(objective, self.w, v) * (len(y) / self.examples.size)
                    self._advance(len(y))
        except RuntimeError as error:
            x, _ = next(self._chunks())
            if names := find_layers_without_second_derivative(self._problem.model, x[:2]):
                remedy = "a layer of dlopt or torch in its place has one"
                raise LayerError(
                    f"{', '.join(names)} has no second derivative ({_first_line(error)}); {remedy}"
                ) from error
            raise
        return total

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.examples.chunks(self._chunk):
            yield reduce(lambda x, rule: rule.inference(x), self._rules, x), y


@contextmanager
def allow_second_derivatives(model: nn.Module) -> Iterator[None]:
    """Let attention and recurrent layers take kernels that can be differentiated twice: the fused ones cannot be."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def find_layers_without_second_derivative(model: nn.Module, inputs: Tensor) -> list[str]:
    """Return the names of the innermost modules that raise an error when they are differentiated twice."""
    names: list[str] = []
    arguments: dict[str, Any] = {}
    innermost = {name: module for name, module in model.named_modules() if not list(module.children())}
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: arguments.setdefault(name, args))
        for name, module in innermost.items()
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    with allow_second_derivatives(model):
        for name, args in arguments.items():
            try:
                _differentiate_twice(innermost[name], args)
            except RuntimeError:
                names.append(f"{name} ({type(innermost[name]).__name__})")
    return names


def _differentiate_twice(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Take a second derivative of the square of a module's output."""
    args = tuple(x.detach().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in args)
    sources = [x for x in (*args, *module.parameters()) if torch.is_tensor(x) and x.requires_grad]
    outputs = module(*args)
    output = outputs[0] if isinstance(outputs, tuple) else outputs
    if sources and output.requires_grad:
        first = torch.autograd.grad(output.square().sum(), sources, create_graph=True, allow_unused=True)
        total = torch.stack([g.square().sum() for g in first if g is not None]).sum()
        torch.autograd.grad(total, sources, allow_unused=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

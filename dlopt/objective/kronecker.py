"""Kronecker factors of the Fisher information: second moments of the inputs and output gradients of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad

from dlopt.base.layout import AffineLayer
from dlopt.objective.micro_batches import Evaluation, Share, Targets
from dlopt.objective.problem import Problem
from dlopt.objective.sampled_targets import compute_sampled_loss, make_sampling_key
from dlopt.prng import Key


def compute_factors(
    problem: Problem, sampled: bool, share: Share, w: Tensor, x: Tensor, y: Targets, key: Key,
    varying: Mapping[tuple[int, str], Tensor],
) -> tuple[*tuple[Tensor, ...], Evaluation]:  # fmt: skip
    """Return A and G of each affine layer of the layout, in turn, of one lane on a micro-batch.

    A layer that is used several times has the sum over its uses in A and their mean in G, as a convolution has of its
    positions. The gradients are those of zeros that are added to the outputs of the layers. A first evaluation finds
    the shapes of these zeros.
    """
    loss, *rules = problem.with_lane_values(varying)
    layers = problem.layout.affine

    def evaluate(visit: Callable[[int, Tensor, Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        network = problem.functional
        with _visit_layers(problem.model, layers, visit):
            z = problem.outputs(network, rules, w, x, key, varying=varying, part=share.part)
        return z, network.pop_batch_stats()

    uses: list[tuple[int, Tensor]] = []  # layers with their inputs
    outputs: list[Tensor] = []

    def record(i: int, a: Tensor, s: Tensor) -> Tensor:
        uses.append((i, a))
        outputs.append(s)
        return s.clone()  # a later module may overwrite it

    z, statistics = evaluate(record)
    targets = problem.targets(rules, y)
    _, evaluation = problem.evaluate(loss, z, targets, statistics)
    fisher_key = make_sampling_key(key, share)

    def value(shifts: Sequence[Tensor]) -> Tensor:
        left = iter(shifts)
        outputs, _ = evaluate(lambda i, a, s: s + next(left))
        if sampled:
            return compute_sampled_loss(problem, loss, outputs, z, fisher_key)
        return problem.evaluate(loss, outputs, targets, {})[0]

    slopes = grad(value)([torch.zeros_like(s) for s in outputs])
    factors: list[Tensor] = []
    for i, layer in enumerate(layers):
        module = problem.model.get_submodule(layer.name)
        mine = [j for j, (k, _) in enumerate(uses) if k == i]
        a = [_list_inputs(module, uses[j][1], bias=layer.bias is not None) for j in mine]
        g = [_list_outputs(module, slopes[j]) for j in mine]
        positions = sum(t.shape[1] for t in g)
        fraction = share.fraction / len(x)
        inputs, units = layer.sides
        factors.append(_sum_products(a, inputs, w) * fraction)
        factors.append(_sum_products(g, units, w) * (fraction * len(x) ** 2 / max(positions, 1)))
    return *factors, evaluation


@contextmanager
def _visit_layers(
    model: nn.Module, layers: Sequence[AffineLayer], visit: Callable[[int, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Replace the outputs of these layers by visit(index of the layer, its inputs, its outputs)."""

    def make_hook(i: int) -> Any:
        return lambda module, inputs, outputs: visit(i, inputs[0], outputs)

    hooks = [model.get_submodule(layer.name).register_forward_hook(make_hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _list_inputs(module: nn.Module, a: Tensor, *, bias: bool) -> Tensor:
    """Return the inputs of one unit at each position, (B, positions, inputs), with a one at the end for the bias."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        size = module.weight[0].numel()
        eye = torch.eye(size, dtype=a.dtype, device=a.device).view(size, *module.weight.shape[1:])
        convolve: Any = F.conv1d if isinstance(module, nn.Conv1d) else F.conv2d
        a = convolve(a, eye, None, module.stride, module.padding, module.dilation).flatten(2).mT
    else:
        a = a.reshape(len(a), -1, a.shape[-1])
    return F.pad(a, (0, 1), value=1.0) if bias else a


def _list_outputs(module: nn.Module, s: Tensor) -> Tensor:
    """Return the outputs at each position, (B, positions, units)."""
    return s.flatten(2).mT if isinstance(module, (nn.Conv1d, nn.Conv2d)) else s.reshape(len(s), -1, s.shape[-1])


def _sum_products(rows: Sequence[Tensor], size: int, like: Tensor) -> Tensor:
    """Return the sum of r r' over all rows r of (B, positions, size)."""
    flat = [r.reshape(-1, size).to(like.dtype) for r in rows]
    return sum((r.mT @ r for r in flat), start=like.new_zeros(size, size))

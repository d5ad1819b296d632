"""Gradients of single examples of a mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from dlopt import prng
from dlopt.objective.bound import PART_KEYS
from dlopt.objective.micro_batches import MicroBatch, Share, Targets, map_targets
from dlopt.objective.problem import Problem
from dlopt.prng import Key

MAX_NUMBERS = 1 << 22
"""Numbers in a chunk of gradients."""
MAX_EXAMPLES = 1 << 10
"""Examples, times gradients, of joint backward passes of a micro-batch; a single pass may have more."""
EXAMPLE = Share(1, 1.0)
"""The share of an example by itself: it is not the first part, which has the penalties."""


def iterate_example_gradients(problem: Problem, w: Tensor, batch: MicroBatch, key: Key, count: int) -> Iterator[Tensor]:
    """Yield the gradients of the losses, without penalties, of the first examples of a micro-batch: (..., n, P) each.

    An example is evaluated by itself, with masks and noise of its own. If the network uses statistics of the batch, the
    loss of an example depends on all of the micro-batch: then a gradient is the derivative of this loss within the
    micro-batch, and takes the time of a backward pass of it. The mean over all examples is the gradient of the loss of
    the micro-batch, in the first case up to its masks.
    """
    lanes = problem.lanes or 1
    size = max(1, MAX_NUMBERS // (lanes * problem.layout.size))
    function = _within_batch if problem.functional.normalizations else _alone
    for first in range(0, count, size):
        at = torch.arange(first, min(first + size, count), device=w.device)

        def call(w: Tensor, x: Tensor, y: Targets, key: Key, varying: Mapping[Any, Tensor], at: Tensor = at) -> Tensor:
            return function(problem, w, x, y, key, varying, at)

        yield problem.map_lanes(call)(w, batch.inputs, batch.targets, key, problem.varying)


def _alone(
    problem: Problem, w: Tensor, x: Tensor, y: Targets, key: Key, varying: Mapping[Any, Tensor], at: Tensor
) -> Tensor:
    def gradient(x: Tensor, y: Targets, i: Tensor) -> Tensor:
        own, x, y = prng.fold_in(key, PART_KEYS + i), x.unsqueeze(0), map_targets(lambda t: t.unsqueeze(0), y)

        def loss(w: Tensor) -> Tensor:
            return problem.total(w, x, y, own, varying, share=EXAMPLE)[0]

        g: Tensor = grad(loss)(w)
        return g

    return _map_examples(problem, gradient, x[at], map_targets(lambda t: t[at], y), at)


def _within_batch(
    problem: Problem, w: Tensor, x: Tensor, y: Targets, key: Key, varying: Mapping[Any, Tensor], at: Tensor
) -> Tensor:
    loss, *rules = problem.with_lane_values(varying)

    def losses(w: Tensor) -> Tensor:
        outputs = problem.outputs(problem.functional, rules, w, x, key, varying=varying)
        problem.functional.pop_batch_stats()
        targets = map_targets(lambda t: t.unsqueeze(1), problem.targets(rules, y))
        return vmap(lambda z, target: problem.evaluate(loss, z, target, {})[0])(outputs.unsqueeze(1), targets)

    linearized: Any = vjp(losses, w)  # mypy takes it for the triple with has_aux
    values, transpose = linearized
    chosen = (at.unsqueeze(-1) == torch.arange(len(values), device=w.device)).to(values.dtype)
    together = max(1, MAX_EXAMPLES // ((problem.lanes or 1) * len(values)))
    return _map_examples(problem, lambda row: transpose(row)[0], chosen, together=together)


def _map_examples(
    problem: Problem, function: Callable[..., Tensor], *columns: Targets, together: int | None = None
) -> Tensor:
    """Call a function of one example for each row of the columns, `together` at a time.

    Networks with recurrent layers of torch are called one after another: vmap fails for them, or warns and does the
    same.
    """
    if problem.is_recurrent:
        rows = ([map_targets(itemgetter(i), column) for column in columns] for i in range(len(columns[0])))
        return torch.stack([function(*row) for row in rows])
    mapped: Tensor = vmap(function, chunk_size=together)(*columns)
    return mapped

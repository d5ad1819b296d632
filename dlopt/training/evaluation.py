"""Metrics of a weight vector on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dlopt.objective.problem import Problem
from dlopt.training.batches import Examples

CHUNK = 1024
"""Examples of one forward pass: large enough to fill a core, small enough that activations stay in its cache."""


def predict_split(
    problem: Problem,
    w: Tensor,
    examples: Examples,
    running: Mapping[str, Tensor] | None = None,
    advance: Callable[[int], None] | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the network's outputs on a whole split, (..., N, outputs), and its targets, without randomness.

    advance, if given, is called with the number of examples of each chunk that is done. batch_size is the number of
    examples of one forward pass; None: `get_chunk_size`.
    """
    dim = 0 if problem.lanes is None else 1
    pairs = []
    for x, y in examples.chunks(batch_size or get_chunk_size(problem)):
        pairs.append((problem.predict(w, x, running), y))
        if advance is not None:
            advance(x.shape[dim])
    outputs, targets = (torch.cat(column, dim=dim) for column in zip(*pairs, strict=True))
    return outputs, targets


def get_chunk_size(problem: Problem) -> int:
    """Return the number of examples of one forward pass, which is at most that of a pass of training."""
    return min(CHUNK, problem.micro_batch_size or CHUNK)


def evaluate(
    problem: Problem, w: Tensor, examples: Examples, running: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the loss and its metrics at w, without penalties; each of shape () or (E,).

    They are computed from the outputs of the whole split, because a metric may depend on all of them at once.
    """
    return compute_metrics(problem, *predict_split(problem, w, examples, running))


def compute_metrics(problem: Problem, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the loss and its metrics from the result of `predict_split`."""
    with torch.no_grad():
        return {"loss": problem.losses(outputs, targets)} | problem.measure(outputs, targets)


def recompute_statistics(problem: Problem, w: Tensor, examples: Examples) -> dict[str, Tensor]:
    """Return running statistics for w, such as averaged weights: their means over the training split.

    Frozen normalizations have none: theirs are constants of the network.
    """
    if not problem.running:
        return {}
    total: dict[str, Tensor] = {}
    count = 0
    for x, _ in examples.chunks(get_chunk_size(problem)):
        size = x.shape[0 if problem.lanes is None else 1]
        for name, value in problem.statistics(w, x).items():
            total[name] = total.get(name, 0.0) + value * size
        count += size
    return {name: value / count for name, value in total.items()}


class TrainingSplit:
    """The training split as the network in inference sees it: not augmented, with nothing random."""

    def __init__(self, problem: Problem, examples: Examples) -> None:
        self._problem = problem
        self._examples = examples

    def summarize_activations(self, w: Tensor, summarize: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield summarize(outputs) of each activation at w, by name, for one chunk of examples after another.

        The outputs of one run are (B, features, ...). Only the summaries are kept, so this takes the memory of an
        evaluation.
        """
        for x, _ in self._examples.chunks(get_chunk_size(self._problem)):
            yield self._problem.summarize_activations(w, x, summarize)

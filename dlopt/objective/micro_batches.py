"""Micro-batches: a mini-batch in parts, whose losses add up to its own, for batches that do not fit into memory.

loss = sum over parts of  (examples in the part / examples in the batch) x mean loss of the part
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """The number of a micro-batch in its mini-batch, from 0, and its fraction of the examples."""

    part: int
    fraction: float


WHOLE = Share(0, 1.0)
"""The share of a mini-batch that is not split."""


class GuidedTargets(NamedTuple):
    """Targets (..., b[, outputs]), and the outputs of a teacher, or of its hint layer, (..., b, *), for the inputs."""

    own: Tensor
    teacher: Tensor


Targets = Tensor | GuidedTargets


def map_targets(function: Callable[[Tensor], Tensor], targets: Targets) -> Targets:
    """Return a function of the targets, and of the teacher's outputs if there are any."""
    return GuidedTargets(*map(function, targets)) if isinstance(targets, GuidedTargets) else function(targets)


def map_own(function: Callable[[Tensor], Tensor], targets: Targets) -> Targets:
    """Return a function of the targets, with the teacher's outputs as they are if there are any."""
    return targets._replace(own=function(targets.own)) if isinstance(targets, GuidedTargets) else function(targets)


class MicroBatch(NamedTuple):
    """Inputs (..., b, *shape) and targets (..., b[, outputs]) of a part of a mini-batch."""

    inputs: Tensor
    targets: Targets
    share: Share


class Evaluation(NamedTuple):
    """The result of one evaluation, for metrics: loss of the output without penalties, output, batch statistics.

    auxiliary holds the losses of the auxiliary outputs, and distillation that of the teacher, without their weights.
    """

    loss: Tensor
    outputs: Tensor
    statistics: dict[str, Tensor]
    auxiliary: tuple[Tensor, ...] = ()
    distillation: tuple[Tensor, ...] = ()


def count_micro_batches(examples: int, size: int | None) -> int:
    """Return the number of parts of at most `size` examples; None: the whole."""
    return 1 if size is None else -(-examples // size)


def split_batch(inputs: Tensor, targets: Targets, size: int | None, dim: int) -> list[MicroBatch]:
    """Split a mini-batch into the fewest parts of at most `size` examples; their sizes differ by one at most."""
    if size is None or size >= (examples := inputs.shape[dim]):
        return [MicroBatch(inputs, targets, WHOLE)]
    count = count_micro_batches(examples, size)
    columns = targets if isinstance(targets, GuidedTargets) else (targets,)
    pieces = [column.tensor_split(count, dim) for column in columns]
    parts = [GuidedTargets(*part) if len(part) > 1 else part[0] for part in zip(*pieces, strict=True)]
    pairs = zip(inputs.tensor_split(count, dim), parts, strict=True)
    return [MicroBatch(x, y, Share(i, x.shape[dim] / examples)) for i, (x, y) in enumerate(pairs)]


def combine(evaluations: Sequence[Evaluation], batches: Sequence[MicroBatch], dim: int) -> Evaluation:
    """Return the evaluation of a mini-batch from those of its parts: means of losses and statistics, all outputs."""
    if len(evaluations) == 1:
        return evaluations[0]
    fractions = [batch.share.fraction for batch in batches]

    def mean(terms: Sequence[Tensor]) -> Tensor:
        return torch.stack([term * fraction for term, fraction in zip(terms, fractions, strict=True)]).sum(0)

    return Evaluation(
        mean([e.loss for e in evaluations]),
        torch.cat([e.outputs for e in evaluations], dim),
        {name: mean([e.statistics[name] for e in evaluations]) for name in evaluations[0].statistics},
        tuple(mean(losses) for losses in zip(*(e.auxiliary for e in evaluations), strict=True)),
        tuple(mean(losses) for losses in zip(*(e.distillation for e in evaluations), strict=True)),
    )

"""Training metrics from the outputs of the steps themselves, and means of what the optimizer reports of its steps.

Outputs and targets stay on the device. Nothing is computed from them, and the host does not wait, until a row is due.
A row of an evaluation covers the current epoch so far. A row of log_every covers the steps since the row of log_every
before, which may be of an earlier epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.optimizer import Step, check_info
from dlopt.metrics.names import DISTILLATION, OPTIMIZER
from dlopt.objective.micro_batches import Evaluation
from dlopt.objective.problem import Problem
from dlopt.training.batches import to_device_async
from dlopt.training.lanes import select_lanes

MAX_BUFFERED = 2**24
"""Maximum number of buffered output values. If an epoch has more, its metrics are means over chunks, weighted by
examples: the same for means over examples, such as loss, accuracy and mae, approximate for others, such as R^2 and f1.
Evaluations of a split measure all of its outputs at once."""


class StepOutputs(NamedTuple):
    """Mean loss (...), outputs (..., B, outputs), targets (..., B[, outputs]) and info, name -> (...), of a step.

    auxiliary holds the mean losses (...) of the auxiliary outputs, distillation the mean distance from a teacher.
    """

    loss: Tensor
    outputs: Tensor
    targets: Tensor
    info: Mapping[str, Tensor]
    auxiliary: tuple[Tensor, ...] = ()
    distillation: tuple[Tensor, ...] = ()


class Mean(NamedTuple):
    """A mean (...), and its weight in a mean of means: examples for metrics, steps for what the optimizer reports."""

    weight: int
    value: Tensor


class RunningMetrics:
    """The steps of two windows: the current "epoch", and "row", the steps since the last row.

    With spans_epochs, the window "row" continues from epoch to epoch. starts holds where each window begins in parts.
    """

    def __init__(self, problem: Problem, *, spans_epochs: bool) -> None:
        self.problem = problem
        self.spans_epochs = spans_epochs
        self.parts: list[StepOutputs] = []
        self.starts = {"row": 0, "epoch": 0}
        self.numbers = 0
        self.chunk_metrics: dict[str, list[dict[str, Mean]]] = {"row": [], "epoch": []}

    def add(self, evaluation: Evaluation, targets: Tensor, result: Step) -> None:
        """Buffer the outputs of a step, and what its optimizer reports. Raises ValueError if that has a wrong shape."""
        if result.info:
            check_info(result)
        # Copies: the optimizer may overwrite its tensors in the next step.
        info = {name: value.detach().to(evaluation.loss, copy=True) for name, value in result.info.items()}
        others = evaluation.auxiliary, evaluation.distillation
        self.parts.append(StepOutputs(evaluation.loss, evaluation.outputs, targets, info, *others))
        self.numbers += evaluation.outputs.numel()
        if self.numbers > MAX_BUFFERED:
            self._fold()

    def compute_means(self, over: str) -> dict[str, Tensor]:
        """Return losses, the loss's metrics and optimizer/NAME over the "row" or the "epoch", each (...).

        The mean of optimizer/NAME is over the steps that report NAME.
        """
        parts = self.parts[self.starts[over] :]
        pieces = self.chunk_metrics[over] + ([self._compute_means(parts)] if parts else [])
        names = dict.fromkeys(name for piece in pieces for name in piece)
        return {name: _combine([piece[name] for piece in pieces if name in piece]) for name in names}

    def has_diverged(self) -> Tensor:
        """Return whether a loss in the window "row" was not finite, (...)."""
        losses = [part.loss for part in self.parts[self.starts["row"] :]]
        losses += [means["train/loss"].value for means in self.chunk_metrics["row"]]
        if not losses:
            return torch.zeros(() if self.problem.lanes is None else (self.problem.lanes,), dtype=torch.bool)
        return (~torch.isfinite(torch.stack(losses))).any(0)

    def end_row(self) -> None:
        self._begin_anew("row")

    def end_epoch(self) -> None:
        self._begin_anew("epoch", *(() if self.spans_epochs else ("row",)))

    def select_lanes(self, stay: Tensor, count: int) -> None:
        """Keep only these of `count` lanes, given by their indices."""
        self.parts, self.chunk_metrics = select_lanes((self.parts, self.chunk_metrics), stay, count)

    def content(self, i: int) -> dict[str, Any]:
        """Return the buffers of one lane as plain tensors and numbers."""
        lane = (lambda x: x) if self.problem.lanes is None else (lambda x: x[i].clone())
        content: dict[str, Any] = {
            "parts": [_encode_step(part, lane) for part in self.parts],
            "row_begins": self.starts["row"],
            "folded": {over: [_encode(means, lane) for means in pieces] for over, pieces in self.chunk_metrics.items()},
        }
        return content | ({"epoch_begins": self.starts["epoch"]} if self.spans_epochs else {})

    def restore(self, content: dict[str, Any], device: torch.device) -> None:
        """Restore the buffers that `content` returned, for a single run."""
        self.parts = [_decode_step(part, device) for part in content["parts"]]
        self.starts = {"row": content["row_begins"], "epoch": content.get("epoch_begins", 0)}
        self.numbers = sum(part.outputs.numel() for part in self.parts)
        self.chunk_metrics = {
            over: [_decode(piece, device) for piece in pieces] for over, pieces in content["folded"].items()
        }
        if not self.spans_epochs:  # the checkpoint may be of a run with log_every
            self.starts["row"] = max(self.starts.values())
            self._begin_anew()

    def _begin_anew(self, *windows: str) -> None:
        """Let these windows begin at the next step, and release the steps that no window needs."""
        for over in windows:
            self.starts[over] = len(self.parts)
            self.chunk_metrics[over] = []
        unused = min(self.starts.values())
        self.numbers -= sum(part.outputs.numel() for part in self.parts[:unused])
        self.parts = self.parts[unused:]
        self.starts = {over: start - unused for over, start in self.starts.items()}

    def _fold(self) -> None:
        """Replace the buffered outputs by their metrics."""
        for over, start in self.starts.items():
            self.chunk_metrics[over].append(self._compute_means(self.parts[start:]))
        self.parts, self.starts, self.numbers = [], dict.fromkeys(self.starts, 0), 0

    def _compute_means(self, parts: Sequence[StepOutputs]) -> dict[str, Mean]:
        """Return the metrics of these steps, and the means of what the optimizer reports."""
        dim = 0 if self.problem.lanes is None else 1
        columns = {"train/loss": [part.loss for part in parts]}
        for k, column in enumerate(zip(*(part.auxiliary for part in parts), strict=True), 1):
            columns[f"train/auxiliary/{k}/loss"] = list(column)
        for column in zip(*(part.distillation for part in parts), strict=True):
            columns[DISTILLATION] = list(column)
        losses = {name: torch.stack(column, dim=-1) for name, column in columns.items()}
        outputs, targets = (torch.cat([getattr(p, x) for p in parts], dim=dim) for x in ("outputs", "targets"))
        sizes = [part.targets.shape[dim] for part in parts]
        if len(set(sizes)) == 1:
            metrics = {name: x.mean(-1) for name, x in losses.items()}
        else:
            like = losses["train/loss"]
            share = to_device_async(torch.tensor(sizes, dtype=like.dtype), like.device) / sum(sizes)
            metrics = {name: (x * share).sum(-1) for name, x in losses.items()}
        metrics |= {f"train/{name}": value for name, value in self.problem.measure(outputs, targets).items()}
        means = {name: Mean(sum(sizes), value) for name, value in metrics.items()}
        for name in dict.fromkeys(name for part in parts for name in part.info):
            values = [part.info[name] for part in parts if name in part.info]
            means[f"{OPTIMIZER}{name}"] = Mean(len(values), torch.stack(values).mean(0))
        return means


def _combine(means: Sequence[Mean]) -> Tensor:
    """Return the weighted mean of means, (...)."""
    if len(means) == 1:
        return means[0].value
    total = sum(mean.weight for mean in means)
    return torch.stack([mean.value * (mean.weight / total) for mean in means]).sum(0)


# ------------------------------------------------------------------------------------------- in a checkpoint


def _encode_step(part: StepOutputs, lane: Callable[[Tensor], Tensor]) -> list[Any]:
    """Return one lane of a step: loss, outputs and targets, then its info and further losses up to the last one."""
    info = {name: lane(value) for name, value in part.info.items()}
    others = [info, [*map(lane, part.auxiliary)], [*map(lane, part.distillation)]]
    while others and not others[-1]:
        others.pop()
    return [*map(lane, part[:3]), *others]


def _decode_step(content: Sequence[Any], device: torch.device) -> StepOutputs:
    """Return the step that `_encode_step` encoded."""
    loss, outputs, targets = (x.to(device) for x in content[:3])
    info, *others = content[3:] or [{}]
    losses = (tuple(x.to(device) for x in column) for column in others)
    return StepOutputs(loss, outputs, targets, {name: value.to(device) for name, value in info.items()}, *losses)


def _encode(means: Mapping[str, Mean], lane: Callable[[Tensor], Tensor]) -> list[Any]:
    """Return one lane of means: the number of examples, the values, and the number of steps of optimizer/NAME."""
    steps = {name: mean.weight for name, mean in means.items() if name.startswith(OPTIMIZER)}
    values = {name: lane(mean.value) for name, mean in means.items()}
    return [means["train/loss"].weight, values, *([steps] if steps else [])]


def _decode(content: Sequence[Any], device: torch.device) -> dict[str, Mean]:
    """Return the means that `_encode` encoded."""
    examples, values, steps = content if len(content) > 2 else (*content, {})
    return {name: Mean(steps.get(name, examples), value.to(device)) for name, value in values.items()}

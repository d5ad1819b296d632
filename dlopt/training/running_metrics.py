"""Training metrics from the outputs of the steps themselves.

Outputs and targets stay on the device. Nothing is computed from them, and the host does not wait, until a row is due.
A row of an evaluation covers the current epoch so far. A row of log_every covers the steps since the row of log_every
before, which may be of an earlier epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.objective.micro_batches import Evaluation
from dlopt.objective.problem import Problem
from dlopt.training.batches import to_device_async
from dlopt.training.lanes import select_lanes

MAX_BUFFERED = 2**24
"""Maximum number of buffered output values. If an epoch has more, its metrics are means over chunks, weighted by
examples: the same for accuracy and loss, approximate for R^2."""


class StepOutputs(NamedTuple):
    """The mean loss (...), outputs (..., B, outputs) and targets (..., B[, outputs]) of one step."""

    loss: Tensor
    outputs: Tensor
    targets: Tensor


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
        self.chunk_metrics: dict[str, list[tuple[int, dict[str, Tensor]]]] = {"row": [], "epoch": []}

    def add(self, evaluation: Evaluation, targets: Tensor) -> None:
        self.parts.append(StepOutputs(evaluation.loss, evaluation.outputs, targets))
        self.numbers += evaluation.outputs.numel()
        if self.numbers > MAX_BUFFERED:
            self._fold()

    def compute_means(self, over: str) -> dict[str, Tensor]:
        """Return train/loss and the loss's metrics over the "row" or the "epoch", each of shape (...)."""
        parts = self.parts[self.starts[over] :]
        pieces = self.chunk_metrics[over] + ([self._metrics(parts)] if parts else [])
        if len(pieces) == 1:
            return pieces[0][1]
        total = sum(count for count, _ in pieces)
        names = pieces[0][1] if pieces else {}
        return {name: torch.stack([means[name] * (count / total) for count, means in pieces]).sum(0) for name in names}

    def has_diverged(self) -> Tensor:
        """Return whether a loss in the window "row" was not finite, (...)."""
        losses = [part.loss for part in self.parts[self.starts["row"] :]]
        losses += [means["train/loss"] for _, means in self.chunk_metrics["row"]]
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
            "parts": [[lane(x) for x in part] for part in self.parts],
            "row_begins": self.starts["row"],
            "folded": {
                over: [[count, {name: lane(x) for name, x in means.items()}] for count, means in pieces]
                for over, pieces in self.chunk_metrics.items()
            },
        }
        return content | ({"epoch_begins": self.starts["epoch"]} if self.spans_epochs else {})

    def restore(self, content: dict[str, Any], device: torch.device) -> None:
        """Restore the buffers that `content` returned, for a single run."""
        self.parts = [StepOutputs(*(x.to(device) for x in part)) for part in content["parts"]]
        self.starts = {"row": content["row_begins"], "epoch": content.get("epoch_begins", 0)}
        self.numbers = sum(part.outputs.numel() for part in self.parts)
        self.chunk_metrics = {
            over: [(count, {name: x.to(device) for name, x in means.items()}) for count, means in pieces]
            for over, pieces in content["folded"].items()
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
            self.chunk_metrics[over].append(self._metrics(self.parts[start:]))
        self.parts, self.starts, self.numbers = [], dict.fromkeys(self.starts, 0), 0

    def _metrics(self, parts: Sequence[StepOutputs]) -> tuple[int, dict[str, Tensor]]:
        """Return the number of examples of these steps, and their metrics."""
        dim = 0 if self.problem.lanes is None else 1
        losses = torch.stack([part.loss for part in parts], dim=-1)
        outputs, targets = (torch.cat([getattr(p, x) for p in parts], dim=dim) for x in ("outputs", "targets"))
        sizes = [part.targets.shape[dim] for part in parts]
        if len(set(sizes)) == 1:
            mean = losses.mean(-1)
        else:
            share = to_device_async(torch.tensor(sizes, dtype=losses.dtype), losses.device) / sum(sizes)
            mean = (losses * share).sum(-1)
        metrics = {f"train/{name}": value for name, value in self.problem.loss.measure(outputs, targets).items()}
        return sum(sizes), {"train/loss": mean} | metrics

"""The record of one run: its last row, its evaluations, which of them is the best, and its summary."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dlopt.base.diagnostic import Diagnostic
from dlopt.formatting import format_count
from dlopt.metrics.names import AVERAGE, SEARCH_FAILED, higher_is_better
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.status import Status
from dlopt.rundir.writer import RunWriter
from dlopt.storage.memory import peak_memory
from dlopt.training.chance import describe_chance_level
from dlopt.training.experiment import Experiment
from dlopt.training.state import TrainState


@dataclass
class Lane:
    """The record of one run on the host.

    index               its position among the experiments
    row                 the row of the last evaluation, or of the step after which it diverged
    encoded_rows        the rows of its evaluations, as lines of JSON
    best                the row of the best evaluation
    best_saved_at       when the best weights were last written
    has_unsaved_best    whether the best weights are newer than their file
    """

    experiment: Experiment
    run: RunWriter
    index: int
    row: Row = field(default_factory=dict)
    encoded_rows: bytearray = field(default_factory=bytearray)
    best: Mapping[str, Any] | None = None
    best_saved_at: float = field(default_factory=time.perf_counter)
    has_unsaved_best: bool = False

    def record_evaluation(self) -> None:
        """Add the row to the evaluations."""
        self.encoded_rows += json.dumps(self.row).encode() + b"\n"

    def is_best(self) -> bool:
        """Return whether the row is the best so far; without a validation split, the latest one is."""
        metric = self.experiment.objective
        value = self.row.get(metric)
        if value is None or not math.isfinite(value):
            return False
        if self.best is None or self.experiment.validation is None:
            return True
        higher = higher_is_better(metric, self.experiment.loss.directions)
        return value > self.best[metric] if higher else value < self.best[metric]

    def should_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether a regularization ends the run after these evaluations."""
        return bool(history) and any(r.stop(history) for r in self.experiment.regularization.values())

    def describe_tolerance(self, step: int) -> str:
        """Return the keys of the tolerances that end the run after this step, by its row; empty if none does."""
        return self.experiment.settings.tolerance.describe_reached(self.row) if self.row.get("step") == step else ""

    def content(self) -> dict[str, Any]:
        """Return the rows for a checkpoint, as JSON, which keeps every bit of a number.

        Evaluations may be many: their rows are lines in a tensor of bytes.
        """
        history = bytearray(self.encoded_rows)
        return {
            "row": json.dumps(self.row),
            "history": torch.frombuffer(history, dtype=torch.uint8) if history else torch.empty(0, dtype=torch.uint8),
            "best_step": None if self.best is None else self.best["step"],
        }

    def restore(self, content: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Restore the rows that `content` returned; history holds its evaluations, decoded."""
        self.row = json.loads(content["row"])
        self.encoded_rows = bytearray(content["history"].numpy().tobytes())
        self.best = next((row for row in history if row["step"] == content["best_step"]), None)

    def explain_end(self, status: Status, training: TrainState, history: Sequence[Mapping[str, float]]) -> str:
        """Return what there is to say about the end of the run besides its status."""
        if status == "diverged":
            return f"the loss is not finite, seen after step {training.step}"
        if status != "done":
            return ""
        unmeasured = describe_unmeasured(self.experiment.diagnostic, training.step, training.per_epoch)
        parts = (describe_chance_level(self.experiment, history), describe_failures(history), unmeasured)
        return "; ".join(filter(None, parts))


def describe_failures(rows: Sequence[Mapping[str, float]]) -> str:
    """Return that most line searches of a run failed, and what to try; else an empty text."""
    fractions = [row[SEARCH_FAILED] for row in rows if SEARCH_FAILED in row]
    failed = sum(fractions) / len(fractions) if fractions else 0.0
    if failed <= 0.5:
        return ""
    cause = "the loss falls no further within rounding, or optimizer.linesearch.max_evaluations is too small"
    return f"{failed:.0%} of the line searches found no acceptable step: {cause}"


def describe_unmeasured(diagnostics: Mapping[str, Diagnostic], steps: int, per_epoch: int) -> str:
    """Return which diagnostics have an interval longer than a run of `steps` steps; else an empty text."""
    keys = [
        f"diagnostic.{name}.every={diagnostic.every}"
        for name, diagnostic in diagnostics.items()
        if not diagnostic.at_evaluations and (diagnostic.interval(per_epoch) or 0) > steps
    ]
    if not keys:
        return ""
    length = f"{format_count(steps, 'step')} ({steps / per_epoch:.4g} epochs)"
    return f"nothing was measured with {', '.join(keys)}: the run has only {length}"


def summarize(
    training: TrainState,
    lane: Lane,
    test: Mapping[str, float],
    status: Status,
    *,
    validated: bool,
    seconds: float,
    steps_per_second: float | None,
) -> dict[str, Any]:
    """Return the summary of a run that has ended.

    Metrics without a prefix are of the best weights, or of the last ones without a validation split. Those with
    average/ are of the averaged weights at the end. If averaged weights are selected, both are of the best averaged
    weights, and those with last/average/ of the averaged weights at the end. `last/step` is the step of the last
    evaluation; an interrupted run may have taken steps after it. `ended_by` names the tolerance that ended
    the run, if one did.
    """
    reported = lane.row if lane.best is None or not validated else lane.best
    last = {k: v for k, v in test.items() if k.startswith("last/")}
    average = {k: v for k, v in {**lane.row, **test}.items() if k.startswith(AVERAGE)}
    best = {k: v for k, v in test.items() if k not in last and k not in average}
    if lane.best is None:  # it diverged before its first evaluation
        best = {k.removeprefix("last/"): v for k, v in last.items()}
    if lane.experiment.selects_average:
        last |= {f"last/{k}": v for k, v in average.items()}
        average = {}
        if lane.best is not None:
            best |= {k.removeprefix(AVERAGE): v for k, v in lane.best.items() if k.startswith(AVERAGE)}
            average = {f"{AVERAGE}{k}": v for k, v in best.items()}
    tolerance = lane.describe_tolerance(training.step) if status == "done" else ""
    return {
        "status": status,
        **({"ended_by": tolerance} if tolerance else {}),
        **_select_metrics(reported),
        **best,
        **{f"last/{k}": v for k, v in _select_metrics(lane.row).items()},
        "last/step": lane.row.get("step"),
        **last,
        **average,
        "best/step": reported.get("step"),
        "step": training.step,
        "epoch": training.step / training.per_epoch,
        "parameters": training.layout.size,
        "evaluations": training.problem.evaluations,
        "seconds": seconds,
        "steps_per_second": steps_per_second,
        "peak_memory": peak_memory(training.device),
    }


def _select_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k.startswith(("train/", "val/"))}

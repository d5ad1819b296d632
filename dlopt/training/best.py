"""The books of one run: its last row, its evaluations, and which of them is the best."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dlopt.metrics.names import higher_is_better
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.writer import RunWriter
from dlopt.training.experiment import Experiment


@dataclass
class Lane:
    """What the host keeps of one run.

    index               its position among the experiments
    row                 the last row
    encoded_rows        the rows of its evaluations, as they are saved
    best                the row of the best evaluation
    best_saved_at       when the best weights were last written
    has_unsaved_best    whether the best weights are newer than that
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
        """Add the last row to the evaluations."""
        self.encoded_rows += json.dumps(self.row).encode() + b"\n"

    def is_best(self) -> bool:
        """Return whether the last row is the best so far."""
        metric = self.experiment.objective
        value = self.row.get(metric)
        if value is None or not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value > self.best[metric] if higher_is_better(metric) else value < self.best[metric]

    def should_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether a regularization ends the run after these evaluations."""
        return bool(history) and any(r.stop(history) for r in self.experiment.regularization.values())

    def content(self) -> dict[str, Any]:
        """Return the rows as a checkpoint holds them: JSON, which keeps every bit of a number.

        Those of evaluations are lines in a tensor of bytes: there may be more of them than a pickle should hold.
        """
        history = bytearray(self.encoded_rows)
        return {
            "row": json.dumps(self.row),
            "history": torch.frombuffer(history, dtype=torch.uint8) if history else torch.empty(0, dtype=torch.uint8),
            "best_step": None if self.best is None else self.best["step"],
        }

    def restore(self, content: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Restore what `content` returned; history holds its evaluations, decoded."""
        self.row = json.loads(content["row"])
        self.encoded_rows = bytearray(content["history"].numpy().tobytes())
        self.best = next((row for row in history if row["step"] == content["best_step"]), None)

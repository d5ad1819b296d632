"""What of a run reaches the disk to be gone on from or evaluated: best and averaged weights, and the last state."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.metrics.names import higher_is_better
from dlopt.rundir.metrics_log import Row, decode_evaluations
from dlopt.rundir.writer import RunWriter
from dlopt.training import checkpointing
from dlopt.training.experiment import Experiment
from dlopt.training.lanes import tree_map
from dlopt.training.state import TrainState

BEST_EVERY = 10.0
"""Seconds between two writes of the best checkpoint: the best weights themselves stay on the device."""


@dataclass
class Lane:
    """What one run keeps on the host: its last row, and which of those of its evaluations is the best.

    encoded holds the latter as they are saved; the rows themselves are the training's.
    """

    experiment: Experiment
    run: RunWriter
    index: int
    row: Row = field(default_factory=dict)
    encoded_rows: bytearray = field(default_factory=bytearray)
    best: Row | None = None
    best_saved_at: float = field(default_factory=time.perf_counter)
    has_unsaved_best: bool = False

    def record_evaluation(self) -> None:
        """Its last row is one of an evaluation."""
        self.encoded_rows += json.dumps(self.row).encode() + b"\n"

    def is_best(self) -> bool:
        """Whether the last row is the best so far."""
        metric = self.experiment.objective
        value = self.row.get(metric)
        if value is None or not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value > self.best[metric] if higher_is_better(metric) else value < self.best[metric]

    def should_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether one of its rules ends it after the evaluations that it has had."""
        return bool(history) and any(r.stop(history) for r in self.experiment.regularization.values())

    def content(self) -> dict[str, Any]:
        """Its rows, as a checkpoint holds them: JSON, which keeps every bit of a number.

        Those of evaluations are lines in a tensor of bytes: there may be more of them than a pickle should hold.
        """
        history = bytearray(self.encoded_rows)
        return {
            "row": json.dumps(self.row),
            "history": torch.frombuffer(history, dtype=torch.uint8) if history else torch.empty(0, dtype=torch.uint8),
            "best_step": None if self.best is None else self.best["step"],
        }

    def restore(self, content: Mapping[str, Any], history: Sequence[Row]) -> None:
        """The inverse of `content`, whose rows of evaluations are read already."""
        self.row = json.loads(content["row"])
        self.encoded_rows = bytearray(content["history"].numpy().tobytes())
        self.best = next((row for row in history if row["step"] == content["best_step"]), None)


class AveragedWeights(NamedTuple):
    """Averaged weights, (..., P), and the running statistics that belong to them."""

    w: Tensor
    running: Mapping[str, Tensor]


class CheckpointSaver:
    """The best weights of one run or of E lanes, on the device, and the checkpoints of all kinds."""

    def __init__(self, training: TrainState) -> None:
        self.training = training
        self.best_w = training.w.clone()
        self.best_running = {name: b.clone() for name, b in training.problem.running.items()}
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether the last checkpoint is to be written after so many steps."""
        wanted = self.training.settings.checkpoint
        if step >= self.training.steps:
            return False  # the end writes it
        if wanted.every is not None and step % wanted.every == 0:
            return True
        return wanted.minutes is not None and time.monotonic() - self._last >= 60 * wanted.minutes

    def update_best(self, lanes: Sequence[Lane], which: Sequence[int]) -> None:
        """The iterates of these lanes are their best so far."""
        t = self.training
        at = slice(None) if t.solo else torch.tensor(which, device=t.device)
        self.best_w[at] = t.w[at]
        for name, b in t.problem.running.items():
            self.best_running[name][at] = b[at]
        for i in which:
            lanes[i].has_unsaved_best = True
        self.save_best(lanes, [i for i in which if time.perf_counter() - lanes[i].best_saved_at >= BEST_EVERY])

    def save_best(self, lanes: Sequence[Lane], which: Sequence[int], *, lasting: bool = True) -> None:
        """Write the best checkpoint of these lanes, where it is not written yet; lasting as in Run.save."""
        for i in which:
            lane = lanes[i]
            if lane.has_unsaved_best:
                assert lane.best is not None
                content = self._common(lane) | {"step": lane.best["step"], "model": self._best(i)}
                lane.run.save("best", content, lasting=lasting)
                lane.best_saved_at = time.perf_counter()
                lane.has_unsaved_best = False

    def save_average(self, lane: Lane, i: int, averaged: AveragedWeights) -> None:
        """Write the averaged weights of lane i, at its end."""
        model = checkpointing.model_state_dict(self.training, averaged.w, averaged.running, i)
        lane.run.save("average", self._common(lane) | {"step": self.training.step, "model": model})

    def save(self, lanes: Sequence[Lane], which: Sequence[int], books: Sequence[Mapping[str, Any]]) -> None:
        """Write the last checkpoint of these lanes, with what the journal keeps of each, and their best.

        What is logged reaches the disk before a checkpoint that counts on it.
        """
        self.save_best(lanes, which, lasting=False)
        for i, kept in zip(which, books, strict=True):
            lane = lanes[i]
            state = checkpointing.capture_state(self.training, i) | {"best": self._best(i), **lane.content(), **kept}
            content = self._common(lane) | {"logged": lane.run.flush()} | state
            lane.run.save("last", content, keep=self.training.settings.checkpoint.keep)
        self._last = time.monotonic()

    def restore(self, lane: Lane, content: Mapping[str, Any]) -> None:
        """Take over what a single run has evaluated, and its best weights.

        What lies there may be of steps after those it goes on from.
        """
        history = tuple(decode_evaluations(content))
        self.training.histories = [history]
        lane.restore(content, history)
        lane.run.checkpoint("average").unlink(missing_ok=True)
        if lane.best is None:
            lane.run.checkpoint("best").unlink(missing_ok=True)
            return
        checkpointing.load_weights(self.training, self.best_w, self.best_running, content["best"])
        lane.has_unsaved_best = True
        self.save_best([lane], [0])

    def select_lanes(self, stay: Tensor) -> None:
        """Leave only these lanes, given by their indices."""
        self.best_w = self.best_w[stay]
        self.best_running = tree_map(lambda b: b[stay], self.best_running)

    def _best(self, i: int) -> dict[str, Tensor]:
        return checkpointing.model_state_dict(self.training, self.best_w, self.best_running, i)

    @staticmethod
    def _common(lane: Lane) -> dict[str, Any]:
        """What checkpoints of all kinds hold."""
        e = lane.experiment
        counted = [] if e.train.targets.is_floating_point() else [str(i) for i in range(e.outputs)]
        return {
            "format": checkpointing.FORMAT,
            "config": lane.run.config_digest(),
            "settings": lane.run.settings,
            "preprocessing": {name: dict(statistics) for name, statistics in e.preprocessing.items()},
            "encoding": dict(e.encoding) or {"classes": counted},
        }

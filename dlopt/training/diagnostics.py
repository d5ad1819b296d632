"""The diagnostics of one run or of E lanes: when they are due, what they remember and what they have measured."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dlopt.base.diagnostic import Diagnostic, Histogram, Picture, Reading, StepRecord
from dlopt.base.optimizer import Optimizer, Step
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.rundir.writer import RunWriter
from dlopt.training import checkpointing
from dlopt.training.due import Intervals
from dlopt.training.evaluation import TrainingSplit
from dlopt.training.lanes import select_lanes
from dlopt.training.state import TrainState


class Diagnostics:
    """Runs the diagnostics that are due.

    readings   what was measured since the last row, by tag
    """

    def __init__(self, training: TrainState, due: Intervals) -> None:
        self.training = training
        self.due = due
        self.readings: dict[str, Reading] = {}
        self._diagnostics = training.first.diagnostic
        self._memory: dict[str, Any] = {}
        self._start()

    def is_any_due(self) -> bool:
        """Return whether a diagnostic is due at the current step."""
        return any(map(self._is_due, self._diagnostics.values()))

    def measure(
        self, objective: MiniBatchObjective, result: Step, before: Tensor, gradient: Tensor, optimizer: Optimizer
    ) -> None:
        """Run the diagnostics that are due on the current step, whose iterate is already in `training`."""
        t = self.training
        record = StepRecord(
            t.step, before, t.w, result.loss, gradient, t.lr, t.layout, objective, result.info,
            optimizer=optimizer, state=result.state, evaluates=self.due.evaluation(t.step + 1),
            train=TrainingSplit(t.problem, t.examples),
        )  # fmt: skip
        for name, diagnostic in self._diagnostics.items():
            if self._is_due(diagnostic):
                with objective.pause_counting():
                    readings, self._memory[name] = diagnostic.measure(record, self._memory.get(name))
                self.readings |= readings

    def content(self, i: int) -> Any:
        """Return the memory of lane i for its checkpoint."""
        return checkpointing.to_plain(self._memory, i, self.training.solo)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Restore the memory of a single run.

        A diagnostic that is not in it starts at the current iterate, and so does one whose memory has another form,
        because its hyperparameters were changed. The memory of a diagnostic that was left out is dropped.
        """
        self._start()
        for name in content.keys() & self._diagnostics.keys():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                saved = checkpointing.from_plain(self._memory.get(name), content[name], self.training.device)
                self._memory[name] = saved

    def select_lanes(self, stay: Tensor, count: int) -> None:
        """Keep only these of `count` lanes, given by their indices."""
        self._memory = select_lanes(self._memory, stay, count)

    def _start(self) -> None:
        t = self.training
        memories = {name: d.init(t.w, t.layout) for name, d in self._diagnostics.items()}
        self._memory = {name: memory for name, memory in memories.items() if memory is not None}

    def _is_due(self, diagnostic: Diagnostic) -> bool:
        step, every = self.training.step + 1, diagnostic.interval(self.training.per_epoch)
        return self.due.diagnostic(every, step) or (diagnostic.at_evaluations and self.due.evaluation(step))


def log_drawings(run: RunWriter, step: int, readings: Mapping[str, Histogram | Picture]) -> None:
    """Write the histograms and the pictures of one run, on the host, to its event file."""
    histograms = {tag: reading.buckets() for tag, reading in readings.items() if isinstance(reading, Histogram)}
    if histograms:
        run.log_histograms(step, histograms)
    pictures = {tag: reading.draw() for tag, reading in readings.items() if isinstance(reading, Picture)}
    if pictures:
        run.log_pictures(step, pictures)

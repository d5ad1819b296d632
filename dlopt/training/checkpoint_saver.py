"""When checkpoints are written: the last, the best and the averaged weights. Their content is in checkpointing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.training import checkpointing
from dlopt.training.best import Lane
from dlopt.training.lanes import tree_map
from dlopt.training.state import TrainState

BEST_EVERY = 10.0
"""Minimum number of seconds between two writes of the best checkpoint; the best weights stay on the device."""


class AveragedWeights(NamedTuple):
    """Averaged weights, (..., P), and the running statistics that belong to them."""

    w: Tensor
    running: Mapping[str, Tensor]


class CheckpointSaver:
    """Writes the checkpoints of one run or of E lanes, and keeps their best weights on the device."""

    def __init__(self, training: TrainState) -> None:
        self.training = training
        self.best_w = training.w.clone()
        self.best_running = {name: b.clone() for name, b in training.problem.running.items()}
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether the last checkpoint is due after so many steps; the end of a run writes it anyway."""
        wanted = self.training.settings.checkpoint
        if step >= self.training.steps:
            return False
        if wanted.every is not None and step % wanted.every == 0:
            return True
        return wanted.minutes is not None and time.monotonic() - self._last >= 60 * wanted.minutes

    def update_best(self, lanes: Sequence[Lane], which: Sequence[int]) -> None:
        """Take the iterates of these lanes as their best so far."""
        t = self.training
        at = slice(None) if t.solo else torch.tensor(which, device=t.device)
        self.best_w[at] = t.w[at]
        for name, b in t.problem.running.items():
            self.best_running[name][at] = b[at]
        for i in which:
            lanes[i].has_unsaved_best = True
        self.save_best(lanes, [i for i in which if time.perf_counter() - lanes[i].best_saved_at >= BEST_EVERY])

    def save_best(self, lanes: Sequence[Lane], which: Sequence[int], *, lasting: bool = True) -> None:
        """Write the best checkpoint of these lanes, unless it is written already; lasting as in RunWriter.save."""
        for i in which:
            lane = lanes[i]
            if lane.has_unsaved_best:
                assert lane.best is not None
                content = checkpointing.make_header(lane.experiment, lane.run) | {
                    "step": lane.best["step"],
                    "model": self._best(i),
                }
                lane.run.save("best", content, lasting=lasting)
                lane.best_saved_at = time.perf_counter()
                lane.has_unsaved_best = False

    def save_average(self, lane: Lane, i: int, averaged: AveragedWeights) -> None:
        """Write the averaged weights of lane i at its end."""
        model = checkpointing.model_state_dict(self.training, averaged.w, averaged.running, i)
        lane.run.save(
            "average",
            checkpointing.make_header(lane.experiment, lane.run) | {"step": self.training.step, "model": model},
        )

    def save(self, lanes: Sequence[Lane], which: Sequence[int], books: Sequence[Mapping[str, Any]]) -> None:
        """Write the last checkpoint of these lanes, with what the recorder keeps of each, and their best.

        Logged rows reach the disk before a checkpoint that counts on them.
        """
        self.save_best(lanes, which, lasting=False)
        for i, kept in zip(which, books, strict=True):
            lane = lanes[i]
            state = checkpointing.capture_state(self.training, i) | {"best": self._best(i), **lane.content(), **kept}
            content = checkpointing.make_header(lane.experiment, lane.run) | {"logged": lane.run.flush()} | state
            lane.run.save("last", content, keep=self.training.settings.checkpoint.keep)
        self._last = time.monotonic()

    def restore(self, lane: Lane, content: Mapping[str, Any]) -> None:
        """Restore the evaluations and the best weights of a single run, once its state of training is restored.

        Files of best and averaged weights may be of later steps than the checkpoint: they are replaced or removed.
        """
        lane.restore(content, self.training.histories[0])
        lane.run.checkpoint("average").unlink(missing_ok=True)
        if lane.best is None:
            lane.run.checkpoint("best").unlink(missing_ok=True)
            return
        checkpointing.load_weights(self.training, self.best_w, self.best_running, content["best"])
        lane.has_unsaved_best = True
        self.save_best([lane], [0])

    def select_lanes(self, stay: Tensor) -> None:
        """Keep only these lanes, given by their indices."""
        self.best_w = self.best_w[stay]
        self.best_running = tree_map(lambda b: b[stay], self.best_running)

    def _best(self, i: int) -> dict[str, Tensor]:
        return checkpointing.model_state_dict(self.training, self.best_w, self.best_running, i)

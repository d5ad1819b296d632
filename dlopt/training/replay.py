"""Replay a part of a run in another directory, to check that its numbers are reproduced bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlopt.rundir.directory import Checkpoint, RunDirectory
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.writer import RunWriter
from dlopt.storage import checkpoint_file
from dlopt.training.checkpointing import STATE_KEYS, find_differences
from dlopt.training.control import TrainingControl
from dlopt.training.experiment import Experiment
from dlopt.training.loop import train


class StepRange(NamedTuple):
    """The steps after `begin` up to and including `end`; 0 is the start of the run."""

    begin: int
    end: int


class CheckpointIndex(NamedTuple):
    """The undamaged checkpoints of a run by their steps, oldest first; follow_links: they may be symbolic links."""

    files: dict[int, Path]
    follow_links: bool = False

    @classmethod
    def of(cls, run: RunDirectory) -> CheckpointIndex:
        """Return the index of a run's checkpoints without damaged ones."""
        files = dict(sorted(run.older_checkpoints().items()))
        newest = run.latest_checkpoint() if run.checkpoint("last").exists() else None
        if newest is not None and newest.file == run.checkpoint("last"):
            files[newest.content["step"]] = newest.file
        return cls(files, run.follow_links)

    def load(self, step: int) -> dict[str, Any]:
        """Load a checkpoint. Raises ValueError if it is damaged, or was replaced by a run that is still running."""
        content: dict[str, Any] = checkpoint_file.load(self.files[step], links=self.follow_links)
        if content["step"] != step:
            raise ValueError(f"{self.files[step].name} was after step {step}, and is after step {content['step']} now")
        return content


def replay(
    experiment: Experiment,
    run: RunDirectory,
    state: dict[str, Any] | None,
    part: StepRange,
    folder: Path,
    watch: TrainingControl,
) -> RunWriter:
    """Train a part of a run again in a new run directory, and return it.

    state is the content of the checkpoint at the beginning of the part; None: the start of the run.
    """
    copy = RunWriter(folder)
    copy.checkpoint("last").parent.mkdir(parents=True)
    copy.lock.acquire()
    watch.until = part.end
    if state is not None:
        if run.metrics_file.exists():
            shutil.copyfile(run.metrics_file, copy.metrics_file)
        copy.rollback(Checkpoint(copy.checkpoint("last"), state, {}))
    copy.resume(part.begin, **experiment.describe_run())
    train([experiment], [copy], watch, state)
    return copy


def rows_in(run: RunDirectory, part: StepRange) -> list[Row]:
    """Return the rows of these steps."""
    return [row for row in run.rows() if part.begin < row["step"] <= part.end]


def differing_entries(one: dict[str, Any], other: dict[str, Any]) -> Sequence[str]:
    """Return the names of entries that differ, bit for bit, in two last checkpoints of one step."""
    return [name for name in STATE_KEYS if next(find_differences(one.get(name), other.get(name)), None) is not None]

"""A part of a run made once more, beside it: whether its numbers come out the same, bit for bit."""

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
    """The steps after `begin` up to and with `end`; 0 is the start of the run."""

    begin: int
    end: int


class CheckpointIndex(NamedTuple):
    """The whole checkpoints of a run, by their steps; oldest first. links: whether they may be symbolic links."""

    files: dict[int, Path]
    follow_links: bool = False

    @classmethod
    def of(cls, run: RunDirectory) -> CheckpointIndex:
        """Damaged ones are passed over."""
        files = dict(sorted(run.older_checkpoints().items()))
        newest = run.latest_checkpoint() if run.checkpoint("last").exists() else None
        if newest is not None and newest.file == run.checkpoint("last"):
            files[newest.content["step"]] = newest.file
        return cls(files, run.follow_links)

    def load(self, step: int) -> dict[str, Any]:
        """ValueError where the file is damaged, or holds another step by now: the run may be under way."""
        found: dict[str, Any] = checkpoint_file.load(self.files[step], links=self.follow_links)
        if found["step"] != step:
            raise ValueError(f"{self.files[step].name} was after step {step}, and is after step {found['step']} now")
        return found


def replay(
    experiment: Experiment,
    run: RunDirectory,
    state: dict[str, Any] | None,
    part: StepRange,
    folder: Path,
    watch: TrainingControl,
) -> RunWriter:
    """Make a part of a run again, in a run directory of its own in this folder, which is returned.

    state is the content of the checkpoint at its beginning, None for the start of the run.
    """
    copy = RunWriter(folder)
    copy.checkpoint("last").parent.mkdir(parents=True)
    copy.lock.acquire()
    watch.until = part.end
    if state is not None:
        if run.metrics_file.exists():
            shutil.copyfile(run.metrics_file, copy.metrics_file)
        copy.rollback(Checkpoint(copy.checkpoint("last"), state, {}))
    copy.resume(part.begin, device=experiment.settings.device, threads=experiment.threads)
    train([experiment], [copy], watch, state)
    return copy


def rows_in(run: RunDirectory, part: StepRange) -> list[Row]:
    """Those that lie in a part."""
    return [row for row in run.rows() if part.begin < row["step"] <= part.end]


def differing_entries(one: dict[str, Any], other: dict[str, Any]) -> Sequence[str]:
    """What differs, bit for bit, in two last checkpoints of one step."""
    return [name for name in STATE_KEYS if next(find_differences(one.get(name), other.get(name)), None) is not None]

"""Writing a run directory: one process at a time, and every file whole at every instant."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlopt.metrics.names import RECENT, Direction
from dlopt.rundir.directory import Checkpoint, CheckpointName, RunDirectory
from dlopt.rundir.heat_map import Png
from dlopt.rundir.lock import Lock
from dlopt.rundir.metrics_log import MetricsLog, Row, decode_evaluations, replace_non_finite
from dlopt.rundir.status import Status, list_processes, make_status
from dlopt.rundir.tensorboard import Bucket, EventFileWriter, to_tag
from dlopt.storage import atomic, checkpoint_file

DAMAGED = "damaged"
"""Part of the name of a file that was put aside because it could not be read."""


class RunWriter(RunDirectory):
    """A run directory that this process writes. `create` starts a run; `lock.acquire` and `resume` continue one."""

    def __init__(self, path: Path | str, *, follow_links: bool = False) -> None:
        super().__init__(path, follow_links=follow_links)
        self.lock = Lock(self.path)
        self._metrics = MetricsLog(self.metrics_file)
        self._events: EventFileWriter | None = None
        self._tags: dict[str, None] = {}
        self._has_metrics = False
        self._status: dict[str, Any] = {}
        self._resume_step: int | None = None
        self._last_saved_step: int | None = None

    @classmethod
    def create(
        cls,
        path: Path | str,
        settings: Mapping[str, Any] | None = None,
        lock: Lock | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        directions: Mapping[str, Direction] | None = None,
        teacher: Mapping[str, Any] | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] = (),
        command: str | None = None,
    ) -> RunWriter:
        """Start a run in this directory.

        settings: group -> option and key -> value, flat, for tables of runs and TensorBoard's HPARAMS dashboard.
        lock: the lock of the directory, if it is already held.
        device, threads: the device and the number of CPU threads of the run (None: torch's default).
        directions: the directions of improvement that the loss declares for its own metrics.
        teacher: the run that guides this one: its path, checkpoint, step and the digest of its weights.
        parameter_groups: the parameter groups of the run, in plain values.
        command: the command line to record; None: the command line of this process.
        Raises FileExistsError if the directory holds a run, and LockedError if another process writes it.
        """
        run = cls(path)
        run.path.mkdir(parents=True, exist_ok=True)
        run.lock = lock or run.lock.acquire()
        if run.status_file.exists():
            run.lock.release()
            raise FileExistsError(f"{run.path} already holds a run; choose another directory")
        started = {"started": time.time(), "before": [], **_list_given(directions, teacher, parameter_groups)}
        run._record_start(settings or {}, device, threads, started, command)
        return run

    def resume(
        self,
        step: int = 0,
        settings: Mapping[str, Any] | None = None,
        changes: Sequence[str] = (),
        breaks: Sequence[str] = (),
        config: bytes | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        directions: Mapping[str, Direction] | None = None,
        teacher: Mapping[str, Any] | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] = (),
        command: str | None = None,
    ) -> RunWriter:
        """Resume the run after this many steps; its lock must be held.

        settings: the settings from here on; None keeps the former ones.
        changes: the configuration keys that were changed, for the status.
        breaks: the changes that make it differ from an uninterrupted run.
        config: the changed configuration, or None.
        device, threads, directions, teacher, parameter_groups, command: as in `create`.
        The status keeps the entries of former processes as `before`, the latest first, each with what differs from
        the process after it.
        """
        former = self.status_or_none() or {}
        start_time, former_settings = former.pop("started", None), former.pop("settings", {})
        started = {
            "started": start_time if isinstance(start_time, float) else time.time(),  # the file may be damaged
            "step": step,
            "changes": list(changes),
            "breaks": list(breaks),
            "before": list_processes(former) if former else [],
            **_list_given(directions, teacher, parameter_groups),
        }
        self._resume_step = step
        if config is not None:  # recorded first: a checkpoint belongs to the former or to the new one
            started["config"] = hashlib.sha256(config).hexdigest()
        for file in (self.status_file, self.metrics_file, self.summary_file, self.config_file, *self.checkpoints()):
            atomic.temp_path(file).unlink(missing_ok=True)
        self._record_start(former_settings if settings is None else settings, device, threads, started, command)
        if config is not None:
            atomic.atomic_write_bytes(self.config_file, config)
        return self

    def _record_start(
        self,
        settings: Mapping[str, Any],
        device: str,
        threads: int | None,
        started: Mapping[str, Any],
        command: str | None = None,
    ) -> None:
        from dlopt.rundir import provenance

        self.checkpoint("last").parent.mkdir(exist_ok=True)
        git = []
        for name, repository in provenance.get_repositories().items():
            patch = self.patch(name, repository.patch)
            if repository.patch and not patch.exists():  # the status, which names it, is written next
                atomic.atomic_write_bytes(patch, repository.patch, lasting=False)
            git.append(repository.describe(patch.name))
        origin = {
            "command": command or provenance.get_command(),
            "versions": provenance.get_versions(),
            "machine": provenance.describe_machine(device, threads),
            "git": git,
            "config": self.config_digest(),
        }
        self._status = make_status(origin, started, settings)
        self._save_status()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings with which the run was started or resumed."""
        return self._status["settings"]

    # ------------------------------------------------------------------------------------------- metrics

    def log(self, row: Row) -> None:
        """Append one row to metrics.jsonl and to the event file."""
        self.lock.check(lately=1.0)
        self._metrics.append(row)
        tags = {to_tag(k): v for k, v in row.items() if k not in ("step", "epoch", "seconds") and v is not None}
        events = self._open_events()
        # A row of diagnostics does not tell the metrics, and is not in every row.
        self._has_metrics |= "train/loss" in row or f"{RECENT}train/loss" in row
        if self._has_metrics and not self._tags.keys() >= tags.keys():
            events.add_charts([*self._tags, *tags])
        self._tags |= dict.fromkeys(tags)
        events.add_scalars(row["step"], tags)

    def log_histograms(self, step: int, values: Mapping[str, Sequence[Bucket]]) -> None:
        """Write histograms to the event file: the left edge, the right edge and the count of each bucket."""
        self._open_events().add_histograms(step, values)

    def log_pictures(self, step: int, values: Mapping[str, Png]) -> None:
        """Write pictures to the event file."""
        self._open_events().add_pictures(step, values)

    def flush(self) -> dict[str, Any]:
        """Return the size and SHA-256 of metrics.jsonl after it and the event file have reached the disk."""
        logged = self._metrics.sync()
        self._open_events().fsync()
        return logged

    def _open_events(self) -> EventFileWriter:
        if self._events is None:
            self._events = EventFileWriter(self.path, self._resume_step)
            path = self.path.resolve()
            plain = {k: v for k, v in self._status["settings"].items() if v is not None}
            self._events.add_hparams(plain, f"{path.parent.name}/{path.name}", self._status["started"])
            if self.config_file.exists():
                lines = self.config_file.read_text().splitlines()
                self._events.add_text("config", "".join(f"    {line}\n" for line in lines))  # a code block of Markdown
        return self._events

    # ------------------------------------------------------------------------------------------- checkpoints

    def save(self, name: CheckpointName, content: Mapping[str, Any], keep: int = 1, *, lasting: bool = True) -> None:
        """Write a checkpoint in place of the former one; `keep` of the last ones are kept.

        lasting is False if another checkpoint follows at once: see dlopt.storage.atomic.
        """
        self.lock.check()
        step, file = content["step"], self.checkpoint(name)
        older = name == "last" and keep > 1 and self._last_saved_step not in (None, step)
        former = self.checkpoint_after(self._last_saved_step) if older and self._last_saved_step is not None else None
        with atomic.atomic_write(file, former, lasting=lasting) as stream:
            checkpoint_file.write(stream, content)
        if name == "last":
            self._last_saved_step = step
            for old in list(self.older_checkpoints().values())[keep - 1 :]:
                old.unlink()

    def rollback(self, checkpoint: Checkpoint) -> bool:
        """Bring the directory back to a checkpoint; return whether the rows up to it were whole.

        Damaged newer checkpoints are put aside, and rows after the checkpoint's step are dropped. If metrics.jsonl is
        not what was written up to that step, it is put aside too: its readable rows are kept, and the rows of
        evaluations are replaced by those in the checkpoint.
        """
        for file in checkpoint.damage:
            os.replace(file, _choose_damaged_path(file))
        if checkpoint.file != self.checkpoint("last"):
            os.replace(checkpoint.file, self.checkpoint("last"))
        content = checkpoint.content
        step = self._last_saved_step = self._resume_step = content["step"]
        if self._metrics.truncate(content["logged"]):
            return True
        rows = {row["step"]: row for row in self.rows() if row["step"] <= step}
        rows |= {row["step"]: row for row in decode_evaluations(content)}
        if self.metrics_file.exists():
            shutil.copyfile(self.metrics_file, _choose_damaged_path(self.metrics_file))
        self._metrics.replace([row for _, row in sorted(rows.items())])
        return False

    def clear(self) -> None:
        """Remove rows, events and checkpoints, to start again in the same directory."""
        for file in (self.metrics_file, self.summary_file, *self.checkpoints(), *self.older_checkpoints().values()):
            file.unlink(missing_ok=True)
        for file in self.path.glob("events.out.tfevents.*"):
            file.unlink()

    # ------------------------------------------------------------------------------------------- the end

    def finish(self, status: Status, summary: Mapping[str, Any] | None = None, message: str = "") -> None:
        """End the run: write summary and status, close the files, release the lock."""
        self.lock.check()
        try:
            if summary is not None:
                text = json.dumps(replace_non_finite(summary), indent=2)
                atomic.atomic_write_bytes(self.summary_file, text.encode() + b"\n")
            self._metrics.close()
            if self._events is not None:
                # HPARAMS shows scalars only. The tags are the keys: a point is not among the curves of its metric.
                tests = {k: v for k, v in (summary or {}).items() if k.startswith("test/") and isinstance(v, float)}
                if summary and tests:
                    self._events.add_scalars(summary.get("best/step") or summary.get("step") or 0, tests)
                self._events.end_session(status == "done")
                self._events = None
            self._status |= {"status": status, "ended": time.time(), "message": message}
            self._save_status()
        finally:
            self.lock.release()

    def _save_status(self) -> None:
        atomic.atomic_write_bytes(self.status_file, json.dumps(self._status, indent=2).encode() + b"\n")


def _choose_damaged_path(file: Path) -> Path:
    """Return a free path for a damaged file: metrics.damaged.jsonl, or with a number."""
    names = (f"{file.stem}.{DAMAGED}{number or ''}{file.suffix}" for number in itertools.count())
    return next(path for name in names if not (path := file.with_name(name)).exists())


def _list_given(
    directions: Mapping[str, Direction] | None,
    teacher: Mapping[str, Any] | None,
    parameter_groups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the entries of a status that only some runs have."""
    groups = [dict(group) for group in parameter_groups]
    entries = {"directions": dict(directions or {}), "teacher": dict(teacher or {}), "parameter_groups": groups}
    return {name: value for name, value in entries.items() if value}

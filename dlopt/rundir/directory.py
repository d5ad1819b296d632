"""The run directory as one object: everything that a run leaves behind, and where it lies.

    .hydra/config.yaml     the complete configuration (overrides.yaml: what was typed; hydra.yaml: Hydra's own)
    status.json            running | done | diverged | pruned (its search ended it early) | failed | interrupted, host,
                           pid, times, and what made the run: command, versions, machine, the state of repositories
    git-1a2b3c4.patch      what was not committed in the repository of the working directory, if anything, by its digest
    dlopt-1a2b3c4.patch    the same of dlopt's own, where it runs from a checkout that is another one
    lock.json              the process that writes all this, while there is one
    metrics.jsonl          one object per logged step: step, epoch, seconds, lr, train/loss, val/accuracy, ...
    summary.json           final values at the best weights, and under last/ at the last ones
    checkpoints/           last.pt, best.pt, and older ones by their steps: step-00000300.pt
    events.out.tfevents.*  the same metrics for TensorBoard, with hyperparameters and the configuration
    train.log              what was logged, a traceback if it failed

No other module builds these paths.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

from dlopt.rundir.lock import Lock, find_holder
from dlopt.rundir.tensorboard import Bucket, EventFileWriter
from dlopt.storage import atomic, safe_read

Status = Literal["running", "done", "diverged", "pruned", "failed", "interrupted"]
CheckpointName = Literal["last", "best", "average"]
"""The kinds of checkpoints; the last holds, besides weights, all that a run goes on from."""
Row = dict[str, Any]
LONGEST_ROW = 1 << 20
"""Bytes of a row; the last one is looked for in as many at the end of metrics.jsonl."""
LAST_LINES = 20
"""Among which the last row is looked for, where the very last lines are damaged."""
LARGEST_METRICS = 1 << 27
"""Bytes of metrics.jsonl: a quarter of a million rows; the shortest rows there can be take 16 times as much memory."""
LARGEST_STATUS = 1 << 20
MOST_PROCESSES = 500
"""Of which a status tells, the latest: they fill half of what it may be."""
DAMAGED = "damaged"
"""What stands in the name of a file that was put aside because it could not be read."""


class Checkpoint(NamedTuple):
    """The newest whole checkpoint: its file and content; and what is wrong with the newer ones, by their files."""

    file: Path
    content: dict[str, Any]
    damage: dict[Path, str]


class RunDirectory:
    """One run directory.

    links: whether files in it may be symbolic links to be followed, of which people's tools make some.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.follow_links = False
        self.lock = Lock(self.path)
        self._metrics: Any = None
        self._unsynced = False
        self._digest = hashlib.sha256()
        self._events: EventFileWriter | None = None
        self._status: dict[str, Any] = {}
        self._resume_step: int | None = None
        self._last_saved_step: int | None = None

    # ------------------------------------------------------------------------------------------- places

    @property
    def config_file(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

    @property
    def hydra_file(self) -> Path:
        return self.path / ".hydra" / "hydra.yaml"

    @property
    def overrides_file(self) -> Path:
        return self.path / ".hydra" / "overrides.yaml"

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def log_file(self) -> Path:
        return self.path / "train.log"

    def checkpoint(self, name: CheckpointName) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    def checkpoint_after(self, step: int) -> Path:
        """The older checkpoint after so many steps."""
        return self.path / "checkpoints" / f"step-{step:08d}.pt"

    def checkpoints(self) -> list[Path]:
        """Where those of every kind lie, or would lie, but for older ones."""
        return [self.checkpoint(name) for name in get_args(CheckpointName)]

    def older_checkpoints(self) -> dict[int, Path]:
        """Those before the last, by their steps; the newest first."""
        found = {_step_of(file): file for file in (self.path / "checkpoints").glob("step-*.pt")}
        return {step: found[step] for step in sorted(found, reverse=True) if step >= 0}

    def patch(self, name: str, content: bytes) -> Path:
        """Where the uncommitted changes of a repository lie: each process of a run may have had others."""
        return self.path / f"{name}-{hashlib.sha256(content).hexdigest()[:7]}.patch"

    # ------------------------------------------------------------------------------------------- writing

    @classmethod
    def create(
        cls,
        path: Path | str,
        settings: Mapping[str, Any] | None = None,
        lock: Lock | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        command: str | None = None,
    ) -> RunDirectory:
        """Begin a run here. A directory that holds one already is refused.

        settings: group -> option and key -> value, flat, for tables of runs and TensorBoard's HPARAMS dashboard.
        lock: the directory's, where it is held already.
        device and threads are those that it uses (None: as many as torch takes).
        command: the command line that is recorded; None: that of this process.
        Raises FileExistsError, and Held where another process is at it.
        """
        run = cls(path)
        run.path.mkdir(parents=True, exist_ok=True)
        run.lock = lock or run.lock.acquire()
        if run.status_file.exists():
            run.lock.release()
            raise FileExistsError(f"{run.path} already holds a run; choose another directory")
        run._record_start(settings or {}, device, threads, {"started": time.time(), "before": []}, command)
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
    ) -> RunDirectory:
        """Begin again in a directory that is held (`lock.take`), after so many steps.

        settings are those that the run has from here on, config is its configuration, changes say what is set anew, and
        breaks what of it makes it another run than an uninterrupted one; None where all is as it was.
        What status.json says of the processes before is kept there, as `before`: the latest first, each with what was
        another than in the process after it.
        """
        former = self.status_or_none() or {}
        began, had = former.pop("started", None), former.pop("settings", {})
        kept = had if settings is None else settings
        began = began if isinstance(began, float) else time.time()  # whatever has become of the file
        started = {
            "started": began,
            "step": step,
            "changes": list(changes),
            "breaks": list(breaks),
            "before": list_processes(former) if former else [],
        }
        self._resume_step = step
        if config is not None:  # told first: a checkpoint is of the one or the other
            started["config"] = hashlib.sha256(config).hexdigest()
        for file in (self.status_file, self.metrics_file, self.summary_file, self.config_file, *self.checkpoints()):
            atomic.temp_path(file).unlink(missing_ok=True)
        self._record_start(kept, device, threads, started)
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
        from dlopt.rundir import provenance  # those who only read runs do without it

        self.checkpoint("last").parent.mkdir(exist_ok=True)
        code = []
        for name, found in provenance.get_repositories().items():
            patch = self.patch(name, found.patch)
            if found.patch and not patch.exists():
                atomic.atomic_write_bytes(
                    patch, found.patch, lasting=False
                )  # the status, which names it, is written next
            code.append(found.describe(patch.name))
        self._status = {
            "status": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.time(),
            "ended": None,
            "message": "",
            "command": command or provenance.get_command(),
            "versions": provenance.get_versions(),
            "machine": provenance.describe_machine(device, threads),
            "git": code,
            "config": self.config_digest(),
            **started,
            "settings": dict(settings),
        }
        before = self._status["before"][:MOST_PROCESSES]
        for entry in before[:1]:  # those behind it are held against their own successors already
            for key in ("versions", "machine", "git", "config"):
                if entry.get(key) == self._status[key]:
                    entry.pop(key, None)
        self._status["before"] = before
        self._save_status()

    @property
    def settings(self) -> dict[str, Any]:
        """Those that it was begun with."""
        return self._status["settings"]

    def log(self, row: Row) -> None:
        """Append one row. Numbers that are not finite become null, which JSON has in their place."""
        self.lock.check(lately=1.0)
        if self._metrics is None:
            self._open()
        line = encode_row(row) + b"\n"
        self._metrics.write(line)
        self._metrics.flush()
        self._digest.update(line)
        self._unsynced = True
        assert self._events is not None
        tags = {k: v for k, v in row.items() if k not in ("step", "epoch", "seconds") and v is not None}
        self._events.add_scalars(row["step"], tags)

    def log_histograms(self, step: int, values: Mapping[str, Sequence[Bucket]]) -> None:
        """Write histograms, for TensorBoard alone: the left edge, the right edge and the count of each bucket."""
        if self._events is None:
            self._open()
        assert self._events is not None
        self._events.add_histograms(step, values)

    def flush(self) -> dict[str, Any]:
        """Size and SHA-256 of metrics.jsonl as it was written so far, which is on the disk when this returns."""
        if self._metrics is None:
            self._open()
        assert self._events is not None
        atomic.fsync(self._metrics)
        self._unsynced = False
        self._events.fsync()
        return {"bytes": self._metrics.tell(), "sha256": self._digest.hexdigest()}

    def rollback(self, checkpoint: Checkpoint) -> bool:
        """Bring the directory back to a checkpoint, from which the run goes on; returns whether its rows were whole.

        Damaged checkpoints, which are newer, are put aside, and rows after its step dropped: they will be made again.
        Where metrics.jsonl is not what was written up to that step, it is put aside too; those of its rows that can be
        read are kept, and those of evaluations, which the checkpoint knows, take the place of its own.
        """
        for file in checkpoint.damage:
            os.replace(file, _damaged_path(file))
        if checkpoint.file != self.checkpoint("last"):
            os.replace(checkpoint.file, self.checkpoint("last"))
        content = checkpoint.content
        step = self._last_saved_step = self._resume_step = content["step"]
        size, self._digest = self._digest_metrics(content["logged"]["bytes"])
        if {"bytes": size, "sha256": self._digest.hexdigest()} == content["logged"]:
            if self.metrics_file.exists():
                with self.metrics_file.open("r+b") as stream:
                    stream.truncate(size)
                    atomic.fsync(stream)
            return True
        known = {row["step"]: row for row in self.rows() if row["step"] <= step}
        known |= {row["step"]: row for row in decode_evaluations(content)}
        lines = b"".join(encode_row(row) + b"\n" for _, row in sorted(known.items()))
        if self.metrics_file.exists():
            shutil.copyfile(self.metrics_file, _damaged_path(self.metrics_file))
        atomic.atomic_write_bytes(self.metrics_file, lines)
        self._digest = hashlib.sha256(lines)
        return False

    def _digest_metrics(self, size: int) -> tuple[int, Any]:
        """How many of the first bytes of metrics.jsonl there are, and their SHA-256."""
        found, digest = 0, hashlib.sha256()
        if self.metrics_file.exists():
            with safe_read.open_regular(self.metrics_file) as stream:
                while part := stream.read(max(0, min(size - found, safe_read.CHUNK))):
                    digest.update(part)
                    found += len(part)
        return found, digest

    def clear(self) -> None:
        """Drop rows, events and checkpoints, to begin anew in the same directory."""
        for file in (self.metrics_file, self.summary_file, *self.checkpoints(), *self.older_checkpoints().values()):
            file.unlink(missing_ok=True)
        for file in self.path.glob("events.out.tfevents.*"):
            file.unlink()

    def save(self, name: CheckpointName, content: Mapping[str, Any], keep: int = 1, *, lasting: bool = True) -> None:
        """Write a checkpoint, which takes the place of the former; of the last ones so many are kept.

        lasting is False where another checkpoint is written at once: see dlopt.storage.atomic.
        """
        import torch

        self.lock.check()
        step, file = content["step"], self.checkpoint(name)
        older = name == "last" and keep > 1 and self._last_saved_step not in (None, step)
        former = self.checkpoint_after(self._last_saved_step) if older and self._last_saved_step is not None else None
        try:
            with atomic.atomic_write(file, former, lasting=lasting) as stream:
                torch.save(content, _Output(stream))  # type: ignore[arg-type]  # it writes and flushes alone
        except RuntimeError as error:  # torch's, of a part of the file that was not written; why is said by its cause
            raise error.__context__ if isinstance(error.__context__, (OSError, KeyboardInterrupt)) else error from None
        if name == "last":
            self._last_saved_step = step
            for old in list(self.older_checkpoints().values())[keep - 1 :]:
                old.unlink()

    def load(self, name: CheckpointName) -> dict[str, Any]:
        """A checkpoint's tensors and numbers; ValueError where the file is damaged."""
        from dlopt.storage import torch_file  # those who read no tensors do without it

        return torch_file.load(self.checkpoint(name), links=self.follow_links)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none, whole or damaged.

        Raises ValueError where all are damaged.
        """
        from dlopt.storage import torch_file

        damaged: dict[Path, str] = {}
        for file in (self.checkpoint("last"), *self.older_checkpoints().values()):
            if file.exists():
                try:
                    return Checkpoint(file, torch_file.load(file, links=self.follow_links), damaged)
                except (ValueError, OSError) as error:
                    damaged[file] = f"{file.name} is damaged ({error})"
        if damaged:
            raise ValueError("; ".join(damaged.values()))
        return None

    def finish(self, status: Status, summary: Mapping[str, Any] | None = None, message: str = "") -> None:
        """End the run: summary and status are written, the files closed, the directory is left to others."""
        self.lock.check()
        try:
            if summary is not None:
                text = json.dumps({k: _finite(v) for k, v in summary.items()}, indent=2)
                atomic.atomic_write_bytes(self.summary_file, text.encode() + b"\n")
            if self._metrics is not None:
                if self._unsynced:
                    atomic.fsync(self._metrics)
                self._metrics.close()
                self._metrics = None
            if self._events is not None:
                self._events.end_session(status == "done")
                self._events = None
            self._status |= {"status": status, "ended": time.time(), "message": message}
            self._save_status()
        finally:
            self.lock.release()

    def _open(self) -> None:
        self._metrics = self.metrics_file.open("ab")
        self._events = EventFileWriter(self.path, self._resume_step)
        place = self.path.resolve()
        plain = {k: v for k, v in self._status["settings"].items() if v is not None}
        self._events.add_hparams(plain, f"{place.parent.name}/{place.name}", self._status["started"])
        if self.config_file.exists():
            # Markdown's code block: four spaces.
            self._events.add_text("config", "".join(f"    {x}\n" for x in self.config_file.read_text().splitlines()))

    def _save_status(self) -> None:
        atomic.atomic_write_bytes(self.status_file, json.dumps(self._status, indent=2).encode() + b"\n")

    # ------------------------------------------------------------------------------------------- reading

    @property
    def status(self) -> dict[str, Any]:
        return safe_read.read_json(self.status_file, LARGEST_STATUS, links=self.follow_links)

    def status_or_none(self) -> dict[str, Any] | None:
        """The status, or None where its file is damaged, or not there."""
        try:
            return self.status
        except (ValueError, FileNotFoundError):
            return None

    @property
    def summary(self) -> dict[str, Any]:
        try:
            return safe_read.read_json(self.summary_file, safe_read.SMALL)
        except FileNotFoundError:
            return {}

    def iter_rows(self) -> Iterator[Row | None]:
        """The logged rows, in order; None in place of a line that is none. A last one that was cut off is left out."""
        try:
            for line in safe_read.iter_lines(self.metrics_file, LONGEST_ROW, LARGEST_METRICS, links=self.follow_links):
                if line != b"":  # an empty one says nothing, and a million of them take long to be refused
                    yield None if line is None else _parse_row(line)
        except FileNotFoundError:
            return

    def rows(self) -> list[Row]:
        """The logged rows, in order; without lines that cannot be read."""
        return [row for row in self.iter_rows() if row is not None]

    def last_row(self) -> Row | None:
        """The last whole row, without reading those before it."""
        try:
            with safe_read.open_regular(self.metrics_file) as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - LONGEST_ROW))
                lines = stream.read(LONGEST_ROW).rpartition(b"\n")[0]
        except FileNotFoundError:
            return None
        last = [line for line in lines.rsplit(b"\n", LAST_LINES)[-LAST_LINES:] if line]
        return next((row for line in reversed(last) if (row := _parse_row(line)) is not None), None)

    @property
    def is_stale(self) -> bool:
        """Whether it says that it is running, and no process is at it."""
        return self.status["status"] == "running" and find_holder(self.path) is None

    def config(self) -> dict[str, Any]:
        """The configuration as plain dictionaries, without Hydra."""
        return safe_read.read_yaml(self.config_file, safe_read.SMALL, links=self.follow_links)

    def config_digest(self) -> str | None:
        """The SHA-256 of the configuration's file, which a checkpoint holds too."""
        return hashlib.sha256(self.config_file.read_bytes()).hexdigest() if self.config_file.exists() else None


def list_processes(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a status tells of the processes that have written a run: the present one, then those before it."""
    before = status.get("before")
    own = {key: value for key, value in status.items() if key != "before"}
    return [own, *(dict(p) for p in (before if isinstance(before, list) else []) if isinstance(p, Mapping))]


def decode_evaluations(content: Mapping[str, Any]) -> list[Row]:
    """The rows of evaluations that a last checkpoint holds: lines of JSON in a tensor of bytes, (n,) uint8."""
    return [json.loads(line) for line in content["history"].numpy().tobytes().splitlines()]


class _Output:
    """A stream for torch's writer, which outlives it where an interrupt came in between.

    Such a writer ends its archive when it is deleted, and an error of a stream that is closed by then ends the process.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, content: Any) -> int:
        return len(content) if self._stream.closed else self._stream.write(content)

    def flush(self) -> None:
        self._stream.flush()


def encode_row(row: Row) -> bytes:
    """A row as a line of metrics.jsonl."""
    return json.dumps({k: _finite(v) for k, v in row.items()}).encode()


def _parse_row(line: bytes) -> Row | None:
    """The row that a line holds: numbers by their names, the step and the epoch among them; None if it is none."""
    try:
        row = safe_read.parse_json(line, Path("metrics.jsonl"))
    except safe_read.UnreadableFile:
        return None
    numbers = all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in row.values())
    known = isinstance(row.get("step"), int) and all(isinstance(row.get(k), (int, float)) for k in ("epoch", "seconds"))
    return row if numbers and known else None


def _step_of(file: Path) -> int:
    """The steps of an older checkpoint, by its name; -1 for a file of another kind, such as a damaged one."""
    digits = file.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _damaged_path(file: Path) -> Path:
    """Where a damaged file is put: metrics.damaged.jsonl, or with a number behind it, where nothing lies yet."""
    names = (f"{file.stem}.{DAMAGED}{number or ''}{file.suffix}" for number in itertools.count())
    return next(place for name in names if not (place := file.with_name(name)).exists())


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

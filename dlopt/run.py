"""The run directory as one object: everything that a run leaves behind, and where it lies.

    .hydra/config.yaml     the complete configuration (overrides.yaml: what was typed; hydra.yaml: Hydra's own)
    status.json            running | done | diverged | failed | interrupted, host, pid, times, versions, git commit
    metrics.jsonl          one object per logged step: step, epoch, seconds, lr, train/loss, val/accuracy, ...
    summary.json           final values at the best weights, and under last/ at the last ones
    checkpoints/           last.pt and best.pt
    events.out.tfevents.*  the same metrics for TensorBoard, with hyperparameters and the configuration
    train.log              what was logged, a traceback if it failed

No other module builds these paths.
"""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dlopt import __version__, reading
from dlopt.events import Bucket, Events

Status = Literal["running", "done", "diverged", "failed", "interrupted"]
Row = dict[str, Any]
ROOT = Path("outputs")
"""Where runs lie unless told otherwise."""
LONGEST_ROW = 1 << 20
"""Bytes of a row; the last one is looked for in as many at the end of metrics.jsonl."""
LARGEST_METRICS = 1 << 27
"""Bytes of metrics.jsonl: a quarter of a million rows; the shortest rows there can be take 16 times as much memory."""


class RunNotFound(LookupError):
    """No run, or more than one, answers to a name; the message says which."""


class Run:
    """One run directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._metrics: Any = None
        self._events: Events | None = None
        self._status: dict[str, Any] = {}
        self._after: int | None = None

    # ------------------------------------------------------------------------------------------- places

    @property
    def config_file(self) -> Path:
        return self.path / ".hydra" / "config.yaml"

    @property
    def hydra_file(self) -> Path:
        return self.path / ".hydra" / "hydra.yaml"

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

    def checkpoint(self, name: Literal["last", "best"]) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"

    # ------------------------------------------------------------------------------------------- writing

    @classmethod
    def create(cls, path: Path | str, settings: Mapping[str, Any] | None = None, *, again: bool = False) -> Run:
        """Begin a run here. A directory that holds one already is refused, unless it is to go on (again).

        settings: group -> option and key -> value, flat, for tables of runs and TensorBoard's HPARAMS dashboard.
        """
        run = cls(path)
        if run.status_file.exists() and not again:
            raise FileExistsError(f"{run.path} already holds a run; choose another directory")
        run.checkpoint("last").parent.mkdir(parents=True, exist_ok=True)

        run._status = {
            "status": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
            "ended": None,
            "message": "",
            "versions": _versions(),
            "git": _commit(),
            "settings": dict(settings or {}),
        }
        run._save_status()
        return run

    def log(self, row: Row) -> None:
        """Append one row. Numbers that are not finite become null, which JSON has in their place."""
        if self._metrics is None:
            self._open()
        self._metrics.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
        self._metrics.flush()
        assert self._events is not None
        tags = {k: v for k, v in row.items() if k not in ("step", "epoch", "seconds") and v is not None}
        self._events.scalars(row["step"], tags)

    def histograms(self, step: int, values: Mapping[str, Sequence[Bucket]]) -> None:
        """Write histograms, for TensorBoard alone: the left edge, the right edge and the count of each bucket."""
        if self._events is None:
            self._open()
        assert self._events is not None
        self._events.histograms(step, values)

    def truncate(self, step: int) -> list[Row]:
        """Drop the rows after a step, from which the run then goes on; the rest is returned."""
        rows = [row for row in self.rows() if row["step"] <= step]
        self._after = step
        replace_file(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        return rows

    def clear(self) -> None:
        """Drop rows, events and checkpoints, to begin anew in the same directory."""
        for file in (self.metrics_file, self.summary_file, self.checkpoint("last"), self.checkpoint("best")):
            file.unlink(missing_ok=True)
        for file in self.path.glob("events.out.tfevents.*"):
            file.unlink()

    def save(self, name: Literal["last", "best"], content: Mapping[str, Any]) -> None:
        """Write a checkpoint beside the old one, then put it in its place."""
        import torch

        file = self.checkpoint(name)
        beside = file.with_suffix(".tmp")
        torch.save(content, beside)
        os.replace(beside, file)

    def load(self, name: Literal["last", "best"]) -> dict[str, Any]:
        """A checkpoint's tensors and numbers; nothing in the file is executed."""
        import torch

        with reading.opened(self.checkpoint(name)) as stream:
            return torch.load(stream, map_location="cpu", weights_only=True)

    def finish(self, status: Status, summary: Mapping[str, Any] | None = None, message: str = "") -> None:
        """End the run: summary and status are written, the files closed."""
        if summary is not None:
            text = json.dumps({k: _finite(v) for k, v in summary.items()}, indent=2)
            replace_file(self.summary_file, text.encode() + b"\n")
        self._status |= {"status": status, "ended": time.time(), "message": message}
        self._save_status()
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._events is not None:
            self._events.end(status == "done")
            self._events = None

    def _open(self) -> None:
        self._metrics = self.metrics_file.open("a")
        self._events = Events(self.path, self._after)
        place = self.path.resolve()
        plain = {k: v for k, v in self._status["settings"].items() if v is not None}
        self._events.hparams(plain, f"{place.parent.name}/{place.name}", self._status["started"])
        if self.config_file.exists():
            # Markdown's code block: four spaces.
            self._events.text("config", "".join(f"    {x}\n" for x in self.config_file.read_text().splitlines()))

    def _save_status(self) -> None:
        replace_file(self.status_file, json.dumps(self._status, indent=2).encode() + b"\n")

    # ------------------------------------------------------------------------------------------- reading

    @property
    def status(self) -> dict[str, Any]:
        return reading.json_object(self.status_file, reading.SMALL)

    @property
    def summary(self) -> dict[str, Any]:
        try:
            return reading.json_object(self.summary_file, reading.SMALL)
        except FileNotFoundError:
            return {}

    def rows(self) -> list[Row]:
        """The logged rows, in order; a last line that was cut off is left out."""
        found = []
        try:
            for line in reading.lines(self.metrics_file, LONGEST_ROW, LARGEST_METRICS):
                if line is None:
                    raise reading.Unreadable(self.metrics_file, f"holds a line of more than {LONGEST_ROW} bytes")
                found.append(reading.parsed(line, self.metrics_file))
        except FileNotFoundError:
            pass
        return found

    def last_row(self) -> Row | None:
        """The last whole row, without reading those before it."""
        try:
            with reading.opened(self.metrics_file) as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - LONGEST_ROW))
                lines = stream.read(LONGEST_ROW).rpartition(b"\n")[0]
        except FileNotFoundError:
            return None
        return reading.parsed(lines.rpartition(b"\n")[2], self.metrics_file) if lines else None

    @property
    def alive(self) -> bool:
        """Whether another process of this machine writes it now."""
        status = self.status
        return status["status"] == "running" and status["pid"] != os.getpid() and _is_there(status) is True

    @property
    def dead(self) -> bool:
        """Whether it says that it is running, and its process, on this machine, is gone."""
        status = self.status
        return status["status"] == "running" and _is_there(status) is False

    def config(self) -> dict[str, Any]:
        """The configuration as plain dictionaries, without Hydra."""
        return reading.yaml_mapping(self.config_file, reading.SMALL)

    def choices(self) -> dict[str, str]:
        """The option chosen in each group, as `optimizer: adam`, and inside options, as `schedule.then: cosine`."""
        chosen = reading.yaml_mapping(self.hydra_file, reading.SMALL)["hydra"]["runtime"]["choices"]
        return {k.rpartition("@")[2]: option for k, option in chosen.items() if not k.startswith("hydra/")}


def find(name: str = "last", root: Path | str = ROOT) -> Run:
    """The run called by a path, by a part of its path that no other run has, or `last` for the newest."""
    if (Path(name) / "status.json").is_file():
        return Run(name)
    known = runs(root)
    if not known:
        raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
    if name == "last":
        return Run(known[-1])
    found = only(name, known, root, "runs")
    if found is None:
        raise RunNotFound(f"no run in {root}/ is called '{name}'; the newest is {known[-1]}")
    return Run(found)


def only(name: str, known: Sequence[Path], root: Path | str, kind: str) -> Path | None:
    """The one of these paths below root that has the name in it, None for none; RunNotFound where there are more."""
    found = [path for path in known if name in str(path.relative_to(root))]
    if len(found) > 1:
        shown = "".join(f"\n  {path}" for path in found[-5:])
        raise RunNotFound(f"{len(found)} {kind} are called '{name}'; say more of one of them:{shown}")
    return found[0] if found else None


def runs(root: Path | str = ROOT) -> list[Path]:
    """Every run directory below root, the newest last."""
    return [Path(path) for _, path in sorted(_below(str(root)))]


def sweeps(root: Path = ROOT) -> list[Path]:
    """The directory of every sweep below root, the newest last."""
    return sorted(file.parent for file in root.glob("multirun/*/*/multirun.yaml"))


def _below(folder: str) -> Iterator[tuple[float, str]]:
    """Every run directory, and when its status was written. A run holds no other run, so it is not looked into."""
    try:
        yield Path(folder, "status.json").stat().st_mtime, folder
        return
    except OSError:
        pass
    try:
        with os.scandir(folder) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for path in inner:
        yield from _below(path)


def _is_there(status: Mapping[str, Any]) -> bool | None:
    """Whether the process that a status names exists; None on another machine."""
    if status["host"] != socket.gethostname():
        return None
    try:
        os.kill(status["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def replace_file(file: Path, content: bytes) -> None:
    """Write beside, then rename: a reader sees the old content or the new one, never a part."""
    beside = file.with_name(file.name + ".tmp")
    beside.write_bytes(content)
    os.replace(beside, file)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _versions() -> dict[str, str]:
    found = {"dlopt": __version__, "python": platform.python_version()}
    torch = sys.modules.get("torch")
    return found | ({"torch": str(torch.__version__)} if torch else {})


def _commit() -> str | None:
    """The commit of the working directory, where it is one of a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""The run directory: the files of a run, and how they are read.

    .hydra/config.yaml     the complete configuration (overrides.yaml: command-line overrides; hydra.yaml: Hydra's own)
    status.json            running | done | diverged | pruned (its search ended it early) | failed | interrupted; host,
                           pid, times; command, versions, machine and the state of repositories
    git-1a2b3c4.patch      uncommitted changes in the repository of the working directory, by their digest
    dlopt-1a2b3c4.patch    the same for dlopt's own repository, if it runs from another checkout
    lock.json              the process that writes the directory, while there is one
    metrics.jsonl          one object per logged step: step, epoch, seconds, lr, train/loss, val/accuracy, ...
    summary.json           final values at the best weights, and under last/ at the last ones
    checkpoints/           last.safetensors, best.safetensors, and older ones by step: step-00000300.safetensors
    events.out.tfevents.*  the same metrics for TensorBoard, with hyperparameters and the configuration
    train.log              the log, and a traceback if the run failed
    landscape/, spectrum/  pictures and tables of the commands of these names

No other module builds these paths. `writer.RunWriter` writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from dlopt.rundir import metrics_log
from dlopt.rundir.lock import find_holder
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.status import LARGEST_STATUS
from dlopt.storage import checkpoint_file, safe_read

CheckpointName = Literal["last", "best", "average"]
"""The kinds of checkpoints. The last one also holds everything that resuming needs."""

ResultName = Literal["landscape", "spectrum"]
"""The commands that write results into the run's directory."""


class EarlierVersionError(ValueError):
    """A run was written by an earlier version of dlopt, in a format that is not read."""


class Checkpoint(NamedTuple):
    """The newest whole checkpoint: its file and content, and the damage of newer ones, by file."""

    file: Path
    content: dict[str, Any]
    damage: dict[Path, str]


class RunDirectory:
    """One run directory, for reading.

    follow_links: whether its files may be symbolic links, which some tools of users create.
    """

    def __init__(self, path: Path | str, *, follow_links: bool = False) -> None:
        self.path = Path(path)
        self.follow_links = follow_links

    # ------------------------------------------------------------------------------------------- paths

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

    def results(self, command: ResultName) -> Path:
        """Return the folder of the results of a command that analyses the run."""
        return self.path / command

    def pictures(self) -> list[Path]:
        """Return the pictures that such commands have drawn."""
        return [file for name in get_args(ResultName) for file in sorted(self.results(name).glob("*.png"))]

    def checkpoint(self, name: CheckpointName) -> Path:
        return self.path / "checkpoints" / f"{name}{checkpoint_file.SUFFIX}"

    def checkpoint_after(self, step: int) -> Path:
        """Return the path of the older checkpoint after this many steps."""
        return self.path / "checkpoints" / f"step-{step:08d}{checkpoint_file.SUFFIX}"

    def checkpoints(self) -> list[Path]:
        """Return the paths of checkpoints of every kind, existing or not, except older ones."""
        return [self.checkpoint(name) for name in get_args(CheckpointName)]

    def older_checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints before the last, by step; the newest first."""
        files = {_parse_step(f): f for f in (self.path / "checkpoints").glob(f"step-*{checkpoint_file.SUFFIX}")}
        return {step: files[step] for step in sorted(files, reverse=True) if step >= 0}

    def patch(self, name: str, content: bytes) -> Path:
        """Return the path of the uncommitted changes of a repository, which may differ between processes."""
        return self.path / f"{name}-{hashlib.sha256(content).hexdigest()[:7]}.patch"

    # ------------------------------------------------------------------------------------------- checkpoints

    def load(self, name: CheckpointName) -> dict[str, Any]:
        """Return the content of a checkpoint; raises ValueError if the file is damaged."""
        return self.load_file(self.checkpoint(name))

    def load_file(self, file: Path) -> dict[str, Any]:
        """Return the content of one of the run's checkpoint files; raises ValueError if it is damaged."""
        return checkpoint_file.load(file, links=self.follow_links)

    def latest_checkpoint(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None if there is no checkpoint file.

        Raises ValueError if all are damaged, or written by an earlier version.
        """
        damage: dict[Path, str] = {}
        for file in (self.checkpoint("last"), *self.older_checkpoints().values()):
            if file.exists():
                try:
                    return Checkpoint(file, self.load_file(file), damage)
                except (ValueError, OSError) as error:
                    damage[file] = f"{file.name} is damaged ({error})"
        if damage:
            raise ValueError("; ".join(damage.values()))
        self.check_version()
        return None

    def check_version(self) -> None:
        """Raise EarlierVersionError if the run has only checkpoints of an earlier version."""
        names = [self.checkpoint(name) for name in ("last", "best")]
        if any(file.with_suffix(".pt").exists() for file in names) and not any(file.exists() for file in names):
            raise EarlierVersionError(
                f"{safe_read.to_printable(str(self.path))} was written by an earlier version of dlopt, "
                "whose checkpoints this version does not read"
            )

    # ------------------------------------------------------------------------------------------- reading

    @property
    def status(self) -> dict[str, Any]:
        return safe_read.read_json(self.status_file, LARGEST_STATUS, links=self.follow_links)

    def status_or_none(self) -> dict[str, Any] | None:
        """Return the status, or None if its file is damaged or missing."""
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
        """Yield the logged rows in order, and None for a line that is not a row. Skips an unfinished last line."""
        return metrics_log.iter_rows(self.metrics_file, links=self.follow_links)

    def rows(self) -> list[Row]:
        """Return the logged rows in order, without lines that cannot be read."""
        return [row for row in self.iter_rows() if row is not None]

    def last_row(self) -> Row | None:
        """Return the last whole row without reading those before it."""
        return metrics_log.read_last_row(self.metrics_file)

    @property
    def is_stale(self) -> bool:
        """Return whether the status is running but no process writes the run."""
        return self.status["status"] == "running" and find_holder(self.path) is None

    def config(self) -> dict[str, Any]:
        """Return the configuration as plain dictionaries, without Hydra."""
        return safe_read.read_yaml(self.config_file, safe_read.SMALL, links=self.follow_links)

    def config_digest(self) -> str | None:
        """Return the SHA-256 of the configuration's file, which checkpoints hold too."""
        if not self.config_file.exists():
            return None
        content = safe_read.read_bytes(self.config_file, safe_read.SMALL, links=self.follow_links)
        return hashlib.sha256(content).hexdigest()


def _parse_step(file: Path) -> int:
    """Return the step in the name of an older checkpoint, or -1 for another file, such as a damaged one."""
    digits = file.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1

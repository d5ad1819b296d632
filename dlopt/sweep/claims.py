"""The state of a study's trials: which process runs each one, which point it tries, and how it ended.

The storage operation that creates a trial also writes its attribute "worker", which names its process. So a trial
without a living worker is lost, regardless of when its process was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dlopt.rundir.lock import find_holder, get_machine_id

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

WORKERS = ".workers"
"""Folder of a sweep in which each of its processes has a folder of its own."""

Verdict = Literal["done", "pruned", "diverged", "failed"]
"""How a trial ended: all but failed and diverged have a value."""


class Outcome(NamedTuple):
    """How a trial ended, and the value of the objective, if there is one."""

    verdict: Verdict
    value: float | None
    message: str = ""


@dataclass(frozen=True)
class Trial:
    """An attempt at a point by this process.

    id        of the trial in the storage
    ordinal   of the point, which names its directory; the storage numbers the attempts
    tries     attempts so far whose process was not lost, and this one
    is_retry  whether it continues or repeats an earlier attempt
    """

    id: int
    ordinal: int
    point: tuple[Any, ...]
    tries: int = 1
    is_retry: bool = False


@dataclass
class Counts:
    """Numbers of points by their state."""

    total: int
    running: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)

    @property
    def n_ended(self) -> int:
        return sum(self.by_verdict.values())


def describe_worker(folder: Path) -> dict[str, Any]:
    """Return the description of this process, which holds the lock of a folder."""
    return {
        "host": socket.gethostname(),
        "machine": get_machine_id(),
        "pid": os.getpid(),
        "folder": str(folder.resolve()),
    }


def is_alive(worker: Mapping[str, Any]) -> bool:
    """Return whether the process of a trial lives, as far as this machine can see."""
    folder = Path(str(worker.get("folder", "")))
    if worker.get("machine") == get_machine_id() or folder.is_dir():
        return find_holder(folder) is not None
    return bool(worker)  # a machine that is seen only in the database, where its heartbeats are checked


def remove_worker_folder(folder: str, sweep: Path) -> None:
    """Remove the folder of a process of this sweep that has ended. The study may name any other folder: it stays."""
    if Path(folder).resolve().parent != (sweep / WORKERS).resolve():
        return
    with contextlib.suppress(OSError):
        (Path(folder) / "lock.json").unlink(missing_ok=True)
        Path(folder).rmdir()


def get_state_name(verdict: str) -> str:
    """Return the name of Optuna's state for a verdict. TPE avoids points like a diverged one, which is pruned."""
    return {"done": "COMPLETE", "failed": "FAIL"}.get(verdict, "PRUNED")


def get_verdict(trial: FrozenTrial) -> str | None:
    """Return how a trial ended, or None if it did not, even if its process was lost while it wrote the outcome."""
    verdict: str = trial.user_attrs.get("outcome", "")
    return verdict if verdict and trial.state.name == get_state_name(verdict) else None


def is_first_attempt(trial: FrozenTrial) -> bool:
    """Return whether a trial is the first one of its point."""
    return "instead_of" not in trial.user_attrs


def assign_ordinals(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the ordinal of the point of each trial, by the trial's number."""
    first = [trial.number for trial in trials if is_first_attempt(trial)]
    return {number: ordinal for ordinal, number in enumerate(first)} | {
        trial.number: trial.user_attrs["ordinal"] for trial in trials if not is_first_attempt(trial)
    }


def is_superseded(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial with a smaller number repeats the same one: two processes saw that one die."""
    instead_of = trial.user_attrs.get("instead_of")
    return instead_of is not None and any(
        t.number < trial.number and t.user_attrs.get("instead_of") == instead_of for t in trials
    )


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Exclude the other processes that use this directory. If files cannot be locked, trial numbers keep the order."""
    file = folder / WORKERS / "claims"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield

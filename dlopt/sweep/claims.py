"""What a study's trials say: whose they are, which point each tries, and how it ended.

A claimed trial is signed: its attribute "worker" names the process, from the storage operation on that creates it. So a
trial without a living worker is lost, at whatever instant its process was killed.
"""

from __future__ import annotations

import contextlib
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
"""Folder of a sweep in which each of its processes holds a folder of its own."""


Verdict = Literal["done", "pruned", "diverged", "failed"]
"""How a trial ended: all but failed and diverged have a value."""


class Outcome(NamedTuple):
    """How a trial ended, with the value that is optimized, if there is one."""

    verdict: Verdict
    value: float | None
    message: str = ""


@dataclass(frozen=True)
class Trial:
    """A running point: its trial's number, which names the directory, its ordinal, and the trial that it repeats."""

    id: int
    number: int
    ordinal: int
    point: tuple[Any, ...]
    tries: int = 1
    instead_of: int | None = None


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
    """Return the signature of this process, which holds the lock of a folder."""
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
    return bool(worker)  # of a machine that is only seen in the database, whose heartbeats are checked there


def remove_worker_folder(folder: str) -> None:
    """Remove the folder of a process that has ended."""
    with contextlib.suppress(OSError):
        (Path(folder) / "lock.json").unlink(missing_ok=True)
        Path(folder).rmdir()


def is_first_attempt(trial: FrozenTrial) -> bool:
    """Return whether a trial is the first one of its point."""
    return "instead_of" not in trial.user_attrs


def get_verdict(trial: FrozenTrial) -> str | None:
    """Return how a trial ended, or None if it did not, even if its process was about to say so when it was lost."""
    from optuna.trial import TrialState

    verdict: str = trial.user_attrs.get("outcome", "")
    state = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(verdict, TrialState.PRUNED)
    return verdict if verdict and trial.state == state else None


def assign_ordinals(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the ordinal of the point of each trial, by the trial's number."""
    ordinals: dict[int, int] = {}
    n_first = 0
    for trial in trials:
        if is_first_attempt(trial):
            ordinals[trial.number] = n_first
            n_first += 1
        else:
            ordinals[trial.number] = trial.user_attrs["ordinal"]
    return ordinals


def is_superseded(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial of a smaller number repeats the same trial: two processes have seen that one die."""
    instead_of = trial.user_attrs.get("instead_of")
    return instead_of is not None and any(
        t.number < trial.number and t.user_attrs.get("instead_of") == instead_of for t in trials
    )


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Exclude the other processes that see this directory; where files cannot be locked, numbers keep the order."""
    file = folder / WORKERS / "claims"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

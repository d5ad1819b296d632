"""Check and lock the directory of a new run or sweep."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import Lock, LockedError, find_holder
from dlopt.runner.workers import WorkerLostError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.config.problems import Problems


RELEASE_SECONDS = 10.0
"""Seconds in which the workers of a killed process end: see dlopt.runner.process_pool."""


def check_directory(path: Path, key: str, problems: Problems, *, is_locked: bool = False) -> None:
    """Report a problem at the key if the directory already holds a run or cannot be created.

    is_locked: whether this process holds its lock.
    """
    if RunDirectory(path).status_file.exists():
        if not is_locked and (holder := find_holder(path)):
            problems.add(key, f"{LockedError(path, holder)}; choose another directory")
        else:
            problems.add(key, f"{path} already holds a run; choose another directory, or resume the run: resume={path}")
        return
    above = next(folder for folder in (path, *path.parents) if folder.exists() or folder == folder.parent)
    if not above.is_dir():
        problems.add(key, f"{path} cannot be created: {above} is a file")
    elif not os.access(above, os.W_OK):
        problems.add(key, f"{path} cannot be created: {above} is not writable")


def claim_unfinished(path: Path) -> Lock:
    """Create and lock the directory of a run of a sweep. It may hold the run of a process that was killed.

    Waits a few seconds for the end of that process' workers. Raises WorkerLostError if another process writes the run.
    """
    path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            return Lock(path).acquire()
        except LockedError as error:
            if time.monotonic() > deadline:
                raise WorkerLostError(str(error)) from None
        time.sleep(0.1)


def check_hydra_keys(hydra: DictConfig, problems: Problems) -> None:
    """Report the keys of Hydra with which a run would not find its files."""
    if hydra.job.chdir:
        problems.add("hydra.job.chdir", "must stay false: relative paths of data and runs would lead elsewhere")
    if hydra.output_subdir != ".hydra":
        message = "must stay .hydra: a run cannot be shown or resumed without its configuration"
        problems.add("hydra.output_subdir", message)


def claim_directory(path: Path, key: str, problems: Problems) -> Lock | None:
    """Create and lock a directory. Return the lock, or None after reporting a problem at the key."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    lock = Lock(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except LockedError as error:
        problems.add(key, f"{error}; choose another directory")
        return None
    except OSError as error:
        problems.add(key, f"{path} cannot be created: {error.strerror or error}")
        with contextlib.suppress(OSError):  # remove the directories that were created
            if new:
                lock.file.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()
        return None
    check_directory(path, key, problems, is_locked=True)  # another process may have created a run here meanwhile
    if problems.errors:
        lock.release()
        return None
    return lock

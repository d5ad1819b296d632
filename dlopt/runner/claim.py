"""The directory of a new run or sweep: whether it can be used, and a lock on it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import Lock, LockedError, find_holder

if TYPE_CHECKING:
    from dlopt.config.problems import Problems


def check_directory(path: Path, key: str, problems: Problems, *, is_locked: bool = False) -> None:
    """Report at the key if the directory holds a run already or cannot be made; is_locked: by this process."""
    if RunDirectory(path).status_file.exists():
        writer = None if is_locked else find_holder(path)
        if writer:
            problems.add(key, f"{LockedError(path, writer)}; choose another directory")
        else:
            problems.add(key, f"{path} already holds a run; choose another directory, or resume the run: resume={path}")
        return
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        problems.add(key, f"{path} cannot be made: {above} is a file")
    elif not os.access(above, os.W_OK):
        problems.add(key, f"{path} cannot be made: {above} is not writable")


def claim_directory(path: Path, key: str, problems: Problems) -> Lock | None:
    """Make a directory and lock it. Return the lock, or None after reporting a problem at the key."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    lock = Lock(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except LockedError as error:
        problems.add(key, f"{error}; choose another directory")
        return None
    except OSError as error:
        problems.add(key, f"{path} cannot be made: {error.strerror or error}")
        with contextlib.suppress(OSError):  # nothing is left of a directory that could not be claimed
            if new:
                lock.file.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()
        return None
    check_directory(path, key, problems, is_locked=True)  # another process may have made a run here meanwhile
    if problems.errors:
        lock.release()
        return None
    return lock

"""A study on disk, as Optuna's journal of what was done, one record a line, in a file that outlives its writers.

A writer holds the file by flock, which the operating system ends with the process, however that ends: nobody waits for
a dead one, as they would where the lock is a file beside. A process killed in the middle of a record leaves a line
without an end, which readers pass over; the next writer removes it before it adds its own, or both would be one line
that nobody can read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dlopt.storage import atomic

_BLOCK = 4096


def open_journal(file: Path) -> JournalStorage:
    """Optuna's storage in a file, which is made if it is not there; its folder must be."""
    return JournalStorage(FlockJournalBackend(file))


class FlockJournalBackend(JournalFileBackend):
    """Optuna's file of records, read as Optuna reads it, written by one thread of one process at a time.

    StorageInternalError, as of a database that is away, where the file is gone or the disk full.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._file = file

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with _translate_errors():
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records; they are on the disk when this returns."""
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with (
            _translate_errors(),
            self._file.open("r+b") as stream,
        ):  # opened for each turn, so that threads exclude each other, too
            fcntl.flock(stream, fcntl.LOCK_EX)
            end, whole = stream.seek(0, os.SEEK_END), _end_of_lines(stream)
            if whole < end:
                stream.truncate(whole)
            stream.seek(whole)
            stream.write(content)
            atomic.fsync(stream)


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """What files fail with, as what a storage fails with."""
    try:
        yield
    except OSError as error:
        raise StorageInternalError(str(error)) from error


def _end_of_lines(stream: BinaryIO) -> int:
    """Where the last whole line of a file ends; the stream is at the end of the file."""
    end = stream.tell()
    while end > 0:
        start = stream.seek(max(0, end - _BLOCK))
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0

"""A study in a file: Optuna's journal, one record a line, that survives the death of its writers.

A writer locks the file with flock, which the operating system releases when the process ends, so no one waits for a
dead process; a separate lock file would remain. A process killed in the middle of a record leaves a line without an
end. Readers skip it, and the next writer removes it before it appends its own record.
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
    """Open Optuna's storage in a file, which is created if it does not exist; its folder must exist."""
    return JournalStorage(FlockJournalBackend(file))


class FlockJournalBackend(JournalFileBackend):
    """Optuna's journal file, read as Optuna reads it, and written by one thread of one process at a time.

    Raises StorageInternalError, as a database does that does not answer, if the file is gone or the disk is full.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._file = file

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        with _translate_errors():
            yield from super().read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; they are on the disk when this returns."""
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        # Opened each time, so that threads exclude each other, too.
        with _translate_errors(), self._file.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.truncate(_find_end_of_lines(stream))
            stream.seek(0, os.SEEK_END)
            stream.write(content)
            atomic.fsync(stream)


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageInternalError(str(error)) from error


def _find_end_of_lines(stream: BinaryIO) -> int:
    """Return the position after the last complete line of a file."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = stream.seek(max(0, end - _BLOCK))
        newline = stream.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0

"""Write files atomically: a reader finds the former content or the new one, never a part.

The new content goes into a temporary file, reaches the disk (fsync) and replaces the former file (rename); then the
folder's entry reaches the disk. So a killed process, a power failure or a full disk leaves a whole file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def temp_path(file: Path) -> Path:
    """Return the path of the new content of a file. A file that a dead process left there can be removed."""
    return file.with_name(f"{file.name}.tmp")


@contextlib.contextmanager
def atomic_write(file: Path, former: Path | None = None, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """Yield a stream for the new content of a file, and replace the file at the end, unless an exception was raised.

    former: a path to which the former file is moved. A process that ends between the two renames leaves it there, and
    no file under the name of the new one.
    lasting: whether the folder's entry must reach the disk as well. If not, a power failure may restore the former
    content, until another file of the folder is written with `lasting`.
    """
    new = temp_path(file)
    try:
        new.unlink(missing_ok=True)
        with new.open("xb") as stream:  # never through a link that lies there
            yield stream
            fsync(stream)
        if former is not None and file.exists():
            os.replace(file, former)
        os.replace(new, file)
        if lasting:
            _fsync_dir(file.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(new):
            error.filename = str(file)  # the name that people know
        raise


def atomic_write_bytes(file: Path, content: bytes, *, lasting: bool = True) -> None:
    """Write a file atomically; lasting as in `atomic_write`."""
    with atomic_write(file, lasting=lasting) as stream:
        stream.write(content)


def fsync(stream: BinaryIO) -> None:
    """Wait until everything written to a stream is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def _fsync_dir(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems that support it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

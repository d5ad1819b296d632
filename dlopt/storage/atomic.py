"""Files that are whole at every instant: whatever happens, a reader finds the former content or the new one.

What is written goes into a file beside, reaches the disk (fsync), and takes the place of the former in one step
(rename); then the folder's entry reaches the disk too. So neither a killed process nor a lost power supply leaves a
part of a file, and a full disk leaves the former one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def temp_path(file: Path) -> Path:
    """Where the new content of a file is written; what a dead process has left there holds nothing that counts."""
    return file.with_name(f"{file.name}.tmp")


@contextlib.contextmanager
def atomic_write(file: Path, former: Path | None = None, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """A stream to the new content of a file, which takes its place at the end, if nothing was raised until then.

    lasting: whether the folder's entry has reached the disk, too, when this is over. Where it need not, a lost power
    supply may bring the former content back, as whole as it was, until the next file of the folder lasts.
    former: where the former content goes, if there is any. A process that ends between the two steps leaves it there,
    and nothing in the file's own place.
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
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def atomic_write_bytes(file: Path, content: bytes, *, lasting: bool = True) -> None:
    """Give a file new content; lasting as above."""
    with atomic_write(file, lasting=lasting) as stream:
        stream.write(content)


def fsync(stream: BinaryIO) -> None:
    """Returns when all that was written to a stream is on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def _fsync_dir(folder: Path) -> None:
    """Returns when the names in a folder are on the disk; some systems cannot say."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

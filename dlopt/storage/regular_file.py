"""Open regular files only: a pipe or a device may have no end, or wait forever."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO


def open_regular_file(path: Path, *, links: bool = True) -> BufferedReader:
    """Open a file for reading. Raises OSError if it does not exist, or is a pipe, a device or a folder.

    links: whether it may be a symbolic link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK  # or a pipe waits here for a writer
    try:
        descriptor = os.open(path, flags if links else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise OSError(errno.ELOOP, "is a symbolic link", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", str(path))
    return os.fdopen(descriptor, "rb")


def file_size(stream: BinaryIO) -> int:
    """Return the size of an open file in bytes."""
    return os.fstat(stream.fileno()).st_size

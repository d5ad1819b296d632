"""Files that hold what they hold: no pipes, which never end or never begin, and no devices."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO


def open_regular_file(path: Path, *, links: bool = True) -> BufferedReader:
    """A file, open for reading; OSError where there is none, or where a pipe, a device or a folder has its name.

    links: whether the name may be that of a symbolic link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK  # else a pipe waits here for whoever writes into it
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
    """The bytes of an open file."""
    return os.fstat(stream.fileno()).st_size

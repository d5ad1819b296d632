"""Standard output and standard error that fail no command."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

TYPE_CHECKING = False  # importing typing, or pathlib, would take a third of the time of `dlopt --help`
if TYPE_CHECKING:
    from typing import Any, TextIO


class LastingFile(io.FileIO):
    """An open file descriptor to which writing never fails: once it does, everything is discarded.

    Its reader may have ended, its terminal may be closed, or its disk may be full.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


@contextlib.contextmanager
def prepare_streams(*, lasting: bool) -> Iterator[None]:
    """Replace closed streams in this block, and write what their encoding lacks as question marks.

    lasting: let them outlive their readers, for commands that train.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_prepare(stream, lasting=lasting) for stream in before)
    try:
        yield
    finally:
        for stream, former in zip((sys.stdout, sys.stderr), before, strict=True):
            with contextlib.suppress(OSError):
                stream.flush() if former is not None else stream.close()
        sys.stdout, sys.stderr = before


def _prepare(stream: TextIO | None, *, lasting: bool) -> TextIO:
    if stream is None:  # it was closed before the process started
        return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    is_buffered = hasattr(stream.buffer, "raw")  # not with PYTHONUNBUFFERED
    if not (lasting and isinstance(stream.buffer.raw if is_buffered else stream.buffer, io.FileIO)):
        stream.reconfigure(errors="replace")
        return stream
    file = LastingFile(stream.fileno(), "w", closefd=False)
    buffer: Any = io.BufferedWriter(file) if is_buffered else file
    lines, through = stream.line_buffering, stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=lines, write_through=through)

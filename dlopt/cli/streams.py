"""Standard output and standard error: no command fails for them, or it ends as soon as its output is lost."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

TYPE_CHECKING = False  # importing typing, or pathlib, would take a third of the time of `dlopt --help`
if TYPE_CHECKING:
    from typing import Any, TextIO


class OutputLost(BaseException):
    """The output of a command cannot be written. Not an Exception: nothing else in the command has failed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.is_closed_pipe = isinstance(error, BrokenPipeError)


class OutputFile(io.FileIO):
    """An open file descriptor that discards everything once writing has failed.

    Its reader may have ended, its terminal may be closed, or its disk may be full. If it is not lasting, the first
    failure raises OutputLost.
    """

    def __init__(self, descriptor: int, *, lasting: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lasting = lasting

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if not self.lasting:
                raise OutputLost(error) from error
            return len(data)


@contextlib.contextmanager
def prepare_streams(*, lasting: bool) -> Iterator[None]:
    """Replace closed streams in this block, and write what their encoding lacks as question marks.

    lasting: let standard output outlive its reader, for commands that train; standard error always does.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _prepare(sys.stdout, lasting=lasting), _prepare(sys.stderr, lasting=True)
    try:
        yield
    finally:
        for stream, former in zip((sys.stdout, sys.stderr), before, strict=True):
            with contextlib.suppress(OSError, OutputLost):
                stream.flush() if former is not None else stream.close()
        sys.stdout, sys.stderr = before


def _prepare(stream: TextIO | None, *, lasting: bool) -> TextIO:
    if stream is None:  # it was closed before the process started
        return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    is_buffered = hasattr(stream.buffer, "raw")  # not with PYTHONUNBUFFERED
    if not isinstance(stream.buffer.raw if is_buffered else stream.buffer, io.FileIO):
        stream.reconfigure(errors="replace")
        return stream
    file = OutputFile(stream.fileno(), lasting=lasting)
    buffer: Any = io.BufferedWriter(file) if is_buffered else file
    lines, through = stream.line_buffering, stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=lines, write_through=through)

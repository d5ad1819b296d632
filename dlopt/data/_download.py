"""Files brought from an address: with a bar, gone on with where they broke off, checked before they are in place.

What arrives is written to NAME.part beside the file that it will be. That part is kept when a transfer breaks off, and
the next one asks the server for the rest; when all has arrived it is checked, and only then takes the file's name. A
part that is not what was expected is removed. A process that writes a part holds a lock on it, which ends with the
process; another one that wants the same file waits, and finds it in place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from dlopt import __version__, console
from dlopt.errors import OptionError

TIMEOUT = 30.0
"""Seconds without a byte after which a server is taken to be gone."""
CHUNK = 1 << 17


def fetch(url: str, file: Path, check: Callable[[Path], None], otherwise: str) -> None:
    """Bring what lies at an address into a file. check raises ValueError when the content is not what it should be.

    otherwise says what else people can do; it ends the message where the address cannot be reached. Raises OptionError.
    """
    part = file.with_name(file.name + ".part")
    made = _make_folders(file.parent)
    try:
        with _allow_interrupt(), _open_locked(part) as out:
            if not file.exists():  # else another process has brought it meanwhile
                _receive(url, out, file.name, otherwise)
                try:
                    check(part)
                except ValueError as error:
                    os.ftruncate(out.fileno(), 0)
                    raise OptionError(
                        "url", f"what came from {url} is not the right file and is removed: {error}"
                    ) from error
                os.replace(part, file)
    except OSError as error:
        raise OptionError("path", f"{part} cannot be written: {error.strerror or error}") from error
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # something lies in it
                folder.rmdir()


@contextlib.contextmanager
def _allow_interrupt() -> Iterator[None]:
    """Ctrl-C is an exception in here, whatever it is around, so that locks and the terminal are left in order."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; the ones that were not there are returned, outer ones first."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()][::-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError("path", f"the folder {folder} cannot be made: {error.strerror}") from error
    return missing


@contextlib.contextmanager
def _open_locked(part: Path) -> Iterator[BinaryIO]:
    """The part, open at its end and locked; an empty one is removed when it is let go."""
    while True:
        out = part.open("ab", buffering=0)
        try:
            _lock(out, part)
            if not _is_same_file(out, part):  # it was moved or removed by whom we waited for
                continue
            try:
                yield out
            finally:
                if _is_same_file(out, part) and os.fstat(out.fileno()).st_size == 0:
                    part.unlink()
            return
        finally:
            out.close()


def _lock(out: Any, part: Path) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process is fetching {part.name.removesuffix('.part')}; waiting for it", file=sys.stderr)
        fcntl.flock(out, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: two processes may spoil each other's part, which the check will see
        pass


def _is_same_file(out: Any, part: Path) -> bool:
    """Whether an open file still lies at a path."""
    try:
        return os.path.samestat(os.fstat(out.fileno()), part.stat())
    except FileNotFoundError:
        return False


def _receive(url: str, out: BinaryIO, title: str, otherwise: str) -> None:
    """Write to a file what it lacks of the content of an address."""
    answer, total = _ask(url, out, otherwise)
    if answer is None:
        return
    have, reason = os.fstat(out.fileno()).st_size, ""
    try:
        with answer, console.show_progress(title, total, unit="bytes", done=have) as advance:
            while chunk := answer.read1(CHUNK):
                out.write(chunk)
                have += len(chunk)
                advance(len(chunk))
    except (OSError, HTTPException) as error:
        reason = f" ({_reason(error)})"
    if reason or (total is not None and have < total):
        came = f"{have:,}" + (f" of {total:,}" if total is not None else "")
        raise OptionError(
            "url",
            f"the transfer of {url} broke off after {came} bytes{reason}; the same command goes on from there",
        )


def _ask(url: str, out: BinaryIO, otherwise: str) -> tuple[Any, int | None]:
    """The server's answer, the file cut to where it goes on, and the size of the whole where it is told.

    None in place of an answer: all of it is here already.
    """
    have = os.fstat(out.fileno()).st_size
    headers = {"User-Agent": f"dlopt/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
            if error.code == 416 and have:
                if whole and int(whole[1]) == have:
                    return None, have
                os.ftruncate(out.fileno(), 0)
                return _ask(url, out, otherwise)
            raise OptionError("url", f"{url} answers {error.code} {error.reason}; {otherwise}") from error
    except (OSError, HTTPException) as error:
        raise OptionError("url", f"{url} cannot be reached ({_reason(error)}); {otherwise}") from error
    length = answer.headers.get("Content-Length") or ""
    length = length if length.isdigit() else ""
    if answer.status == 206:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
        if given and int(given[1]) == have:
            return answer, int(given[2]) if given[2] != "*" else have + int(length) if length else None
        answer.close()  # another range than was asked for
        if not have:
            raise OptionError("url", f"{url} answers with a part of the file alone; {otherwise}")
        os.ftruncate(out.fileno(), 0)
        return _ask(url, out, otherwise)
    os.ftruncate(out.fileno(), 0)
    return answer, int(length) if length else None


def _reason(error: BaseException) -> str:
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""Downloads by pooch, with a progress bar, errors in one line, and a check before the file gets its name.

A download is written to NAME.PID.part, so two processes may download the same file. A killed process leaves its part.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dlopt import __version__, console
from dlopt.errors import OptionError

TIMEOUT = 30.0
"""Seconds without data after which a download fails."""
CHUNK = 1 << 17


def fetch(url: str, file: Path, check: Callable[[Path], None], remedy: str) -> None:
    """Download a file; check raises ValueError if the content is wrong. Only a complete and correct file is left.

    Raises OptionError; if the transfer fails, the message ends with remedy.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    new_folders = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with allow_interrupt():
            _transfer(url, part, file.name, remedy)
            check(part)
        os.replace(part, file)
    except OptionError:
        raise
    except ValueError as error:
        raise OptionError("url", f"the content of {url} is wrong and was removed: {error}") from error
    except OSError as error:
        raise OptionError("path", f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none
            part.unlink()
        for folder in new_folders:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def allow_interrupt() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, so that the part is removed and the terminal is restored."""
    before = signal.getsignal(signal.SIGINT)
    is_main_thread = threading.current_thread() is threading.main_thread()  # other threads get no signals
    if not is_main_thread or before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _transfer(url: str, part: Path, title: str, remedy: str) -> None:
    import pooch
    from requests import RequestException

    headers = {"User-Agent": f"dlopt/{__version__}", "Accept-Encoding": "identity"}
    try:
        with contextlib.ExitStack() as stack:

            def close_at_end(response: Any, **_: Any) -> None:  # pooch leaves it open
                stack.callback(response.close)

            keys = {"timeout": TIMEOUT, "headers": headers, "hooks": {"response": close_at_end}}
            pooch.HTTPDownloader(_ProgressBar(title, stack), CHUNK, **keys)(url, str(part), None)
    except RequestException as error:
        raise OptionError("url", f"{url} cannot be downloaded ({_root_cause(error)}); {remedy}") from error


class _ProgressBar:
    """A progress bar with the interface that pooch calls."""

    total = 0

    def __init__(self, title: str, stack: contextlib.ExitStack) -> None:
        self._title, self._stack = title, stack
        self._advance: Callable[[int], None] | None = None

    def update(self, amount: int) -> None:
        if self._advance is None:
            bar = console.show_progress(self._title, self.total or None, unit="bytes")
            self._advance = self._stack.enter_context(bar)
        self._advance(amount)

    def reset(self) -> None:
        """Ignore the end of the transfer, at which pooch counts all bytes again."""
        self._advance = lambda _: None

    def close(self) -> None: ...


def _root_cause(error: BaseException) -> str:
    """Return the reason of a failed transfer from the innermost exception."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""What ends a search before its end: signals, of Ctrl-C, a cluster or a closed terminal; a storage that went away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class StorageUnavailable(Exception):
    """The storage of a study does not answer any more."""


class StopHandler:
    """A handler of signals to stop. One raises KeyboardInterrupt where it is `heard`, or as soon as that begins.

    So what is being told to a study is told to its end. A second signal raises it wherever it comes, for a database
    may never answer; but none does while that of another is on its way out, which has to end what is under way.
    """

    def __init__(self) -> None:
        self._count = 0
        self._hears = False
        self._has_raised = False

    @property
    def is_forced(self) -> bool:
        """Whether to end at once, as if killed."""
        return self._count > 1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Where to wait, or to do what may be left at any instant."""
        self._hears = True
        try:
            if self._count:
                self._has_raised = True
                raise KeyboardInterrupt
            yield
        finally:
            self._hears = False
        self.rearm()

    def rearm(self) -> None:
        """What was raised is dealt with: another signal may raise again."""
        self._has_raised = False

    def __call__(self, number: int, frame: Any) -> None:
        self._count += 1
        if not self._has_raised and (self._hears or self.is_forced):
            self._has_raised = True
            raise KeyboardInterrupt

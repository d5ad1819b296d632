"""What ends a search before its end: signals, of Ctrl-C, a cluster or a closed terminal; a storage that went away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class Away(Exception):
    """The storage of a study does not answer any more."""


class Stopping:
    """A handler of signals to stop. One raises KeyboardInterrupt where it is `heard`, or as soon as that begins.

    So what is being told to a study is told to its end. A second signal raises it wherever it comes.
    """

    def __init__(self) -> None:
        self._asked = False
        self._hears = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Where to wait, or to do what may be left at any instant."""
        self._hears = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._hears = False

    def __call__(self, number: int, frame: Any) -> None:
        again, self._asked = self._asked, True
        if again or self._hears:
            raise KeyboardInterrupt

"""What ends a search before its end: signals, of Ctrl-C, a cluster or a closed terminal; a storage that went away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from dlopt.watch import STOPPING


class Away(Exception):
    """The storage of a study does not answer any more."""


class Stopping:
    """While this lasts, a signal to stop raises KeyboardInterrupt where it is `heard`, or as soon as that begins.

    So what is being told to a study is told to its end. A second signal raises it wherever it comes.
    """

    def __init__(self) -> None:
        self._asked = False
        self._hears = False

    def __enter__(self) -> Stopping:
        self._before = {number: signal.signal(number, self._heard) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._before.items():
            signal.signal(number, former)

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

    def _heard(self, number: int, frame: Any) -> None:
        again, self._asked = self._asked, True
        if again or self._hears:
            raise KeyboardInterrupt

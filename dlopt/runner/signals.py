"""Signals that ask a process to stop: Ctrl-C, preemption by a cluster, a closed terminal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlopt.training.control import TrainingControl

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def list_heeded_signals() -> list[signal.Signals]:
    """Return the stop signals that this process does not ignore.

    A process that was started to ignore some, by nohup or in the background of a script, keeps ignoring them.
    """
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call the handler for every stop signal that is not ignored, until the block ends."""
    before = {number: signal.signal(number, handler) for number in list_heeded_signals()}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def stop_on_signals(control: TrainingControl) -> Iterator[None]:
    """End training after the current step on the first signal, and at once on the second."""

    def stop(number: int, frame: Any) -> None:
        if control.stop:
            raise KeyboardInterrupt
        control.stop = True

    with handle_signals(stop):
        yield

"""Signals that ask a process to stop: Ctrl-C, preemption by a cluster, a closed terminal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlopt.training.control import TrainingControl

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def list_heeded_signals() -> list[signal.Signals]:
    """Return the stop signals that this thread can handle and the process does not ignore.

    A process that was started to ignore some, by nohup or in the background of a script, keeps ignoring them. Only the
    main thread can handle signals. None is a handler outside of Python, which could not be restored.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


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

"""Signals that ask a process to stop: Ctrl-C, preemption by a cluster, a closed terminal."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlopt.training.control import TrainingControl

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call the handler for every stop signal until the block ends."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
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

"""What people see while something takes long: bars in a terminal, a line now and then elsewhere, nothing with -q.

with screen.bar("train-images-idx3-ubyte.gz", total=26421880, unit="bytes") as advance:
    advance(65536)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is no terminal."""

quiet = False
"""Set by the command line: nothing but results that were asked for, and errors."""


def is_terminal() -> bool:
    """Whether a bar can be drawn: somebody looks, and wants to."""
    return sys.stdout.isatty() and not quiet


@contextmanager
def show_progress(
    title: str, total: int | None, unit: Literal["bytes", "examples"] = "examples", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left; yields what is called with each further amount. total None: it is not known."""
    if is_terminal():
        yield from _draw_bar(title, total, unit, done)
    else:
        yield from _print_lines(title, total, unit, done)


def _draw_bar(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), *counts, TimeRemainingColumn()]
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task(title, total=total, completed=done)
        yield lambda amount: bars.advance(task, amount)


def _print_lines(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    began = said = time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, said
        done += amount
        now = time.monotonic()
        if now - said >= PLAIN_EVERY and not quiet:
            said = now
            share = f" of {_amount(total, unit)}" if total else ""
            print(f"{title}: {_amount(done, unit)}{share}, {now - began:.0f} s", flush=True)

    yield advance


def _amount(count: int, unit: str) -> str:
    return f"{count / 1e6:.1f} MB" if unit == "bytes" else f"{count:,} {unit}"

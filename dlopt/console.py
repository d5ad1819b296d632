"""Progress of slow operations: a bar in a terminal, else a line every few seconds, nothing with -q.

with console.show_progress("train-images-idx3-ubyte.gz", total=26421880, unit="bytes") as advance:
    advance(65536)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

PLAIN_EVERY = 5.0
"""Seconds between two lines if the output is not a terminal."""

quiet = False
"""Set by the command line: print only results and errors."""


def is_terminal() -> bool:
    """Return whether progress bars are drawn: stdout is a terminal, and -q is not given."""
    return sys.stdout.isatty() and not quiet


@contextmanager
def announce(text: str) -> Iterator[None]:
    """Show a line in a terminal while a block takes a moment, and erase it at the end of the block."""
    if is_terminal():
        print(text, end="\r", flush=True)
    try:
        yield
    finally:
        if is_terminal():
            print("\x1b[K", end="", flush=True)


@contextmanager
def show_progress(
    title: str, total: int | None, unit: Literal["bytes", "examples", "points"] = "examples", done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Show progress with rate and remaining time. Yield a function to call with each amount; total may be unknown."""
    if is_terminal():
        yield from _draw_bar(title, total, unit, done)
    else:
        yield from _print_lines(title, total, unit, done)


def _draw_bar(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    import rich.progress as bar

    counts = [bar.DownloadColumn(), bar.TransferSpeedColumn()] if unit == "bytes" else [bar.MofNCompleteColumn()]
    columns = ("{task.description}", bar.BarColumn(bar_width=24), *counts, bar.TimeRemainingColumn())
    with bar.Progress(*columns, transient=True) as bars:
        task = bars.add_task(title, total=total, completed=done)
        yield lambda amount: bars.advance(task, amount)


def _print_lines(title: str, total: int | None, unit: str, done: int) -> Iterator[Callable[[int], None]]:
    start = printed_at = time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, printed_at
        done += amount
        now = time.monotonic()
        if now - printed_at >= PLAIN_EVERY and not quiet:
            printed_at = now
            share = f" of {_amount(total, unit)}" if total else ""
            print(f"{title}: {_amount(done, unit)}{share}, {now - start:.0f} s", flush=True)

    yield advance


def _amount(count: int, unit: str) -> str:
    return f"{count / 1e6:.1f} MB" if unit == "bytes" else f"{count:,} {unit}"

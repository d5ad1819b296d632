"""Progress of a run on the screen, and its results."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from dlopt import console as dlopt_console
from dlopt.formatting import format_duration, format_metric, format_rate
from dlopt.metrics.names import select_headline
from dlopt.report.summary import make_summary_table
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.writer import RunWriter
from dlopt.runner.observer import Observer

WIDE_TERMINAL = 110
"""Show training metrics next to validation metrics from this terminal width on."""


class SweepConsole(Protocol):
    """The screen of a sweep, as its runs see it."""

    console: Console

    def follow(self, title: str, follower: Follower) -> None:
        """Show the bar of the current run."""


class Progress(Observer):
    """Shows one run: a bar in a terminal, a line now and then elsewhere, and the results at the end.

    Another thread draws the bar from the counters that the loop updates. A run of a sweep has a title, and the
    screen of the sweep shows its bar and results.
    """

    def __init__(self, title: str = "", sweep: SweepConsole | None = None) -> None:
        super().__init__()
        self.title = title
        self.sweep = sweep
        self.console = sweep.console if sweep else Console()
        self.metrics = ""
        self._start = (0, time.monotonic())
        self._last_print = time.monotonic()
        self._bars: Follower | None = None

    def __enter__(self) -> Progress:
        if dlopt_console.is_terminal():
            self._bars = Follower(self, self.console)
            if self.sweep:
                self.sweep.follow(self.title, self._bars)
            else:
                self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None and not self.sweep:
            self._bars.stop()

    @property
    def rate(self) -> float:
        """Steps per second of wall time."""
        return (self.step - self._start[0]) / max(time.monotonic() - self._start[1], 1e-9)

    def on_begin(self, step: int, steps: int) -> None:
        super().on_begin(step, steps)
        self._start = (step, time.monotonic())

    def on_row(self, run: RunDirectory, row: Row) -> None:
        super().on_row(run, row)
        names = select_headline(row) if self.console.width >= WIDE_TERMINAL else select_headline(row)[-2:]
        if names:  # a row of diagnostics has none
            self.metrics = "  ".join(f"{name} {format_metric(row[name])}" for name in names)
        self._print_line()

    def _print_line(self) -> None:
        """Print the progress if there is no bar and the last line is old."""
        now = time.monotonic()
        if self._bars is None and not dlopt_console.quiet and now - self._last_print >= dlopt_console.PLAIN_EVERY:
            self._last_print = now
            print(f"step {self.describe()}", flush=True)

    def describe(self) -> str:
        """Return steps, rate, remaining time and metrics in one line."""
        rate = self.rate
        time_left = f"  {format_duration((self.steps - self.step) / rate)} left" if rate else ""
        return f"{self.step}/{self.steps}  {format_rate(rate)}/s{time_left}  {self.metrics}"

    def on_notice(self, notice: str) -> None:
        if not dlopt_console.quiet:
            print(f"note: {notice}", file=sys.stderr)

    def on_failure(self, run: RunDirectory, error: Exception) -> None:
        if not self.sweep:  # the screen of a sweep prints a line itself, as for runs in other processes
            super().on_failure(run, error)

    def on_end(self, run: RunWriter, summary: dict[str, Any]) -> None:
        """Print the results, their directory, and commands to type next."""
        if self.sweep:
            return
        if not dlopt_console.quiet:
            self._report(run, summary)
        elif summary["status"] != "done":
            print(f"{display_path(run.path)}: {summary['status']}", file=sys.stderr)

    def _report(self, run: RunWriter, summary: dict[str, Any]) -> None:
        path, status = display_path(run.path), summary["status"]
        table = make_summary_table(summary)
        if table.row_count:
            self.console.print(table)
        print(self.describe_end(summary))
        if status == "done" and (message := run.status["message"]):
            print(f"warning: {message}")
        lines = {}
        if status == "interrupted":
            lines[f"dlopt train resume={path}{' --trust' * uses_custom_code(run)}"] = "resumes where it stopped"
        place = "" if path.startswith("outputs/") else f" {path}"
        lines |= {
            f"dlopt show{place}": "the settings, curves and results again",
            f"dlopt tensorboard{place}": "its curves in a browser, next to other runs",
            "dlopt list": "the options to try next",
        }
        print(f"\nthe run is in {path}")
        suggest(lines)

    def describe_end(self, summary: Mapping[str, Any]) -> str:
        """Return how the run ended, in one line."""
        status = summary["status"]
        stopped = f"ended by {summary['ended_by']}" if "ended_by" in summary else "stopped early"
        early = f" of {self.steps}, {stopped}," if summary["step"] < self.steps else ""
        headline = {
            "done": f"done: {summary['step']} steps{early} in {summary['seconds']:.1f} s of training",
            "diverged": f"diverged: the loss is not finite after step {summary['step']}; try a smaller learning rate",
            "pruned": f"pruned by its search after step {summary['step']}",
            "interrupted": f"interrupted after step {summary['step']}; the state is saved",
        }[status]
        rate = summary.get("steps_per_second")
        return headline + (f" ({format_rate(rate)} steps per second)" if rate and status == "done" else "")


def uses_custom_code(run: RunWriter) -> bool:
    """Return whether a run names user-defined classes, which resuming it executes only with --trust."""
    name = run.settings.get("optimizer.name")
    return any(key.endswith("._target_") for key in run.settings) or (isinstance(name, str) and "." in name)


def suggest(lines: dict[str, str]) -> None:
    """Print commands to type next, each with what it does."""
    folder = "" if shutil.which("dlopt") else f"{display_path(Path(sys.executable).parent)}/"  # no active environment
    width = max(map(len, lines)) + len(folder)
    is_narrow = 5 + width + max(map(len, lines.values())) > shutil.get_terminal_size().columns
    for command, effect in lines.items():
        print(f"  {folder}{command}\n      {effect}" if is_narrow else f"  {folder + command:<{width}}   {effect}")


class Follower(Bars):
    """A bar that reads the loop's counters four times a second."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        bar = BarColumn(bar_width=24 if console.width >= WIDE_TERMINAL else 10)
        rate, metrics = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[metrics]}")
        columns = bar, MofNCompleteColumn(), rate, TimeRemainingColumn(), metrics
        super().__init__(*columns, console=console, refresh_per_second=4, transient=True)
        self.add_task("steps", total=None, rate="", metrics="")

    def get_renderables(self) -> Any:
        p = self._progress
        for task in self.task_ids:
            self.update(
                task, total=p.steps or None, completed=p.step, rate=f"{format_rate(p.rate)}/s", metrics=p.metrics
            )
        yield from super().get_renderables()

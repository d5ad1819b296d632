"""The screen of a search: the best result, running and finished runs, one bar for all; at the end a table."""

from __future__ import annotations

import shlex
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from dlopt import console
from dlopt.cli.dry_run import print_sweep_plan
from dlopt.cli.progress import Follower, suggest
from dlopt.formatting import format_duration, format_metric
from dlopt.metrics.names import select_headline
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import mask_passwords, to_printable
from dlopt.sweep.plan import Repeat

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from dlopt.runner.job import Job
    from dlopt.sweep.claims import Counts, Outcome, Trial
    from dlopt.sweep.cost_forecast import DryRunPlan
    from dlopt.sweep.plan import Plan
    from dlopt.sweep.study import Study

MAX_LATEST_RUNS = 8
"""Finished runs that the live screen shows."""
MAX_TABLE_RUNS = 40
"""A sweep of at most this many runs ends with a table of all of them."""
REPEAT_KEYS = ("seed", "validation.fold")
"""Keys over which a point can be repeated."""
POLL_INTERVAL = 2.0
"""Seconds between two reads of the progress of runs in other processes."""


class _FinishedRun(NamedTuple):
    title: str
    path: str
    status: str
    summary: Mapping[str, Any]


class SweepScreen:
    """Shows one search: live in a terminal, elsewhere one line per run."""

    def __init__(self) -> None:
        self.console = Console()
        self.plan: Plan | None = None
        self._latest: deque[_FinishedRun] = deque(maxlen=MAX_LATEST_RUNS)
        self._running: dict[Path, tuple[str, float]] = {}
        self._follower: Follower | None = None
        self._last_poll = (0.0, {})  # type: tuple[float, dict[Path, str]]
        self._ended_counts: dict[str, int] = {}
        self._best: tuple[str, float, FrozenTrial] | None = None
        self._start_time = time.monotonic()
        self._n_ended_here = 0
        self._live: Live | None = None

    def begin(self, plan: Plan, study: Study) -> SweepScreen:
        """Show that a search begins or resumes. Return this screen, its observer."""
        self.plan, self._study = plan, study
        counts = study.counts()
        self._ended_counts, self.total, self._before = counts.by_verdict, counts.total, counts.n_ended
        self._find_best()
        if self._before and not console.quiet:
            left = self.total - self._before
            rest = f"{left} left" if left else "nothing is left to do"
            print(f"{display_path(plan.folder)}: {self._before} of {self.total} {self._unit} are finished, {rest}")
        if console.is_terminal():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._overall = Bars(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console)
            self._task = self._overall.add_task(
                "[bold]" + self._unit.split()[0], total=self.total, completed=self._before, left=""
            )
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def show_plan(self, outlook: DryRunPlan) -> None:
        """Print what a search would do."""
        print_sweep_plan(outlook)

    # ------------------------------------------------------------------------------------------- observer

    def follow(self, title: str, follower: Follower) -> None:
        """Show the bar of the run in this process."""
        self._follower = follower

    def on_run_start(self, job: Job) -> None:
        self._running[job.path] = (job.title, time.monotonic())

    def on_run_end(self, job: Job, status: str, summary: Mapping[str, Any]) -> None:
        self._running.pop(job.path, None)
        self._follower = None
        self._latest.append(_FinishedRun(job.title, display_path(job.path), status, summary))
        if "message" in summary:
            message = str(summary["message"]).partition("\n")[0]
            print(to_printable(f"{display_path(job.path)} {status}: {message}"), file=sys.stderr)
        if self._live is None and not console.quiet and self.plan is not None and len(self.plan.repeats) > 1:
            print(f"    {_format_run(self._latest[-1])}", flush=True)

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        assert self.plan is not None
        self._n_ended_here += 1
        self._ended_counts[outcome.verdict] = self._ended_counts.get(outcome.verdict, 0) + 1
        n_ended = sum(self._ended_counts.values())
        self._find_best()
        if self._live is not None:
            each = (time.monotonic() - self._start_time) / self._n_ended_here
            left = f"{format_duration(each * (self.total - n_ended))} left" if n_ended < self.total else ""
            self._overall.update(self._task, completed=n_ended, left=left)
            self._live.refresh()
        elif not console.quiet:
            if len(self.plan.repeats) > 1:
                of = f"{self.plan.statistic} of {len(self.plan.repeats)} runs"
                value = (
                    f"  {self.plan.objective} {format_metric(outcome.value)}, {of}" if outcome.verdict == "done" else ""
                )
                words = (f"{n_ended}/{self.total}", self._title(trial.point), outcome.verdict + value)
                print("  ".join(filter(None, words)), flush=True)
            else:
                print(f"{n_ended}/{self.total}  {_format_run(self._latest[-1])}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _title(self, point: Any) -> str:
        assert self.plan is not None
        return self.plan.title(point, Repeat("", ()))

    def _find_best(self) -> None:
        best = self._study.best()
        if best is not None and best.value is not None:
            self._best = (self._title(self._study.point(best) or ()), best.value, best)

    def _format_location(self, trial: FrozenTrial) -> str:
        """Return where the runs of a trial are: with a database, perhaps in another directory or on another host."""
        folder, host = self._study.run_root(trial)
        on = f" on {host}" if host else ""
        return to_printable(f"{display_path(folder / str(trial.number))}{on}")

    # ------------------------------------------------------------------------------------------- results

    def report(self, counts: Counts | None, flags: Sequence[str]) -> None:
        """Print a table of the runs or of their means, and what to type next; flags are what resuming needs."""
        self.close()
        if console.quiet or self.plan is None:
            return
        resume_command = self._resume_command(self.plan, flags)
        resume_line = {resume_command: "resumes where it stopped"}
        if counts is None:
            suggest(resume_line)
            return
        from dlopt.analysis.run_table import read_runs
        from dlopt.cli.runs import get_terminal_width
        from dlopt.report.tables import make_mean_table, make_run_table

        folder, repeated = self.plan.folder, [key for key in REPEAT_KEYS if self._repeats(key)]
        runs = read_runs(folder) if self.total * len(self.plan.repeats) <= MAX_TABLE_RUNS else []
        if runs and repeated and counts.n_ended:
            print(make_mean_table(runs, repeated).text(get_terminal_width()))
        elif runs and self.console.is_terminal:
            print(make_run_table(runs).text(get_terminal_width()))
        path = display_path(folder)
        others = [f"{n} {verdict}" for verdict, n in counts.by_verdict.items() if verdict != "done"]
        verdicts = f" ({', '.join(others)})" if others else ""
        print(f"\n{counts.n_ended} of {counts.total} {self._unit}{verdicts}, in {path}")
        if self._best is not None and self.plan.space.axes:
            title, value, trial = self._best
            of = "median " if self.plan.statistic == "median" and len(self.plan.repeats) > 1 else ""
            location = self._format_location(trial)
            print(f"best: {of}{self.plan.objective} {format_metric(value)} with {title}, in {location}")
        if counts.running:
            print(f"{counts.running} {'is' if counts.running == 1 else 'are'} running in other processes")
        path = shlex.quote(path)
        lines = resume_line if counts.n_ended + counts.running < counts.total else {}
        if counts.by_verdict.get("failed"):
            lines[f"{resume_command} hydra.sweeper.retry=true"] = "repeats failed runs"
        if self.plan.space.axes:
            lines[f"dlopt show {path}"] = "best points, importance; pictures with --png"
        repeated += ["seed"] if any(axis.key == "seed" for axis in self.plan.space.axes) else []
        means = f" --over {','.join(repeated)}" if repeated else ""
        lines[f"dlopt runs {path}{means}"] = (
            "mean and standard deviation" if means else "every run; --sort, --where, --csv"
        )
        lines[f"dlopt tensorboard {path}"] = "their curves in a browser"
        suggest(lines)

    def _resume_command(self, plan: Plan, flags: Sequence[str]) -> str:
        """Return the command that resumes the search."""
        storage = plan.storage or ""
        database = [f"hydra.sweeper.storage={mask_passwords(storage)}"] if "://" in storage else []
        return " ".join(
            [f"dlopt train resume={shlex.quote(display_path(plan.folder))}", *map(shlex.quote, [*database, *flags])]
        )

    def _repeats(self, key: str) -> bool:
        """Return whether each point is repeated over a key."""
        assert self.plan is not None
        return any(o.startswith(f"{key}=") for repeat in self.plan.repeats for o in repeat.overrides)

    @property
    def _objective(self) -> str:
        return self.plan.objective if self.plan is not None else ""

    @property
    def _unit(self) -> str:
        """Return what the counts count."""
        assert self.plan is not None
        count = len(self.plan.repeats)
        return "runs" if count == 1 else f"points of {count} runs each"

    # ------------------------------------------------------------------------------------------- drawing

    def _render(self) -> Group:
        parts: list[Any] = []
        shown = dict.fromkeys(n for e in self._latest for n in select_headline(e.summary) if not n.startswith("train/"))
        names = sorted(shown, key=lambda name: (name != self._objective, not name.startswith("val/")))
        names = names[: max(1, (self.console.width - 50) // 14)]
        if self._latest:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("run", overflow="ellipsis", no_wrap=True)
            table.add_column("")
            for name in names:
                table.add_column(name, justify="right")
            for ended in self._latest:
                status = "" if ended.status == "done" else ended.status
                table.add_row(Text(ended.title), status, *(format_metric(ended.summary.get(n)) for n in names))
            parts.append(table)
        if self._follower is not None:
            title = next((title for title, _ in self._running.values()), "")
            parts += [Text(title, style="bold", overflow="ellipsis", no_wrap=True), self._follower.get_renderable()]
        elif self._running:
            parts.append(self._render_worker_runs())
        if self._best is not None and self.plan is not None:
            title, value, trial = self._best
            best = f"best  {self.plan.objective} {format_metric(value)}  {title}  (trial {trial.number})"
            parts.append(Text(best, style="green", overflow="ellipsis", no_wrap=True))
        bad = [f"{n} {verdict}" for verdict, n in self._ended_counts.items() if verdict != "done"]
        if bad:
            parts.append(Text(", ".join(bad), style="yellow"))
        return Group(*parts, self._overall.get_renderable())

    def _render_worker_runs(self) -> Table:
        """Return a table of the runs in other processes, with their progress as read from their directories."""
        now = time.monotonic()
        if now - self._last_poll[0] >= POLL_INTERVAL:
            self._last_poll = (now, {path: _format_last_row(path) for path in list(self._running)})
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", overflow="ellipsis", no_wrap=True)
        table.add_column(justify="right")
        table.add_column(overflow="ellipsis", no_wrap=True)
        for path, (title, since) in list(self._running.items()):
            table.add_row(Text(title), format_duration(now - since), self._last_poll[1].get(path, ""))
        return table


def _format_last_row(path: Path) -> str:
    """Format the last row of a run in a few words."""
    row = RunDirectory(path).last_row()
    if row is None:
        return ""
    return f"epoch {row['epoch']:g}  " + "  ".join(f"{n} {format_metric(row[n])}" for n in select_headline(row)[-2:])


def _format_run(ended: _FinishedRun) -> str:
    metrics = "  ".join(f"{k} {format_metric(ended.summary[k])}" for k in select_headline(ended.summary))
    return "  ".join(filter(None, (ended.title, ended.status, metrics, ended.path)))

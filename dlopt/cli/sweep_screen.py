"""The screen of a search: the best result, running and finished runs, one bar for all; at the end a table."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter, deque
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

    plan: Plan
    total: int

    def __init__(self) -> None:
        self.console = Console()
        self._has_begun = False
        self._latest: deque[_FinishedRun] = deque(maxlen=MAX_LATEST_RUNS)
        self._running: dict[Path, tuple[str, float]] = {}
        self._follower: Follower | None = None
        self._last_poll: tuple[float, dict[Path, str]] = (0.0, {})
        self._best: tuple[str, float, tuple[Path, str]] | None = None
        self._start_time = time.monotonic()
        self._n_ended_here = 0
        self._live: Live | None = None

    def begin(self, plan: Plan, study: Study) -> SweepScreen:
        """Show that a search begins or resumes. Return this screen, its observer."""
        self._has_begun = True
        self.plan, self._study = plan, study
        counts = study.counts()
        self._ended_counts, self.total = Counter(counts.by_verdict), counts.total
        self._find_best()
        if counts.n_ended and not console.quiet:
            n_left = self.total - counts.n_ended
            rest = f"{n_left} left" if n_left else "nothing is left to do"
            print(f"{display_path(plan.folder)}: {counts.n_ended} of {self.total} {self._unit} are finished, {rest}")
        if console.is_terminal():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._overall = Bars(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console)
            name = f"[bold]{self._unit.split()[0]}"
            self._task = self._overall.add_task(name, total=self.total, completed=counts.n_ended, left="")
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def show_notice(self, notice: str) -> None:
        """Print a notice about the search."""
        if not console.quiet:
            print(f"note: {to_printable(notice)}", file=sys.stderr)

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
        if self._live is None and not console.quiet and len(self.plan.repeats) > 1:
            print(f"    {_format_run(self._latest[-1])}", flush=True)

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        self._n_ended_here += 1
        self._ended_counts[outcome.verdict] += 1
        n_ended = self._ended_counts.total()
        self._find_best()
        if self._live is not None:
            each = (time.monotonic() - self._start_time) / self._n_ended_here
            time_left = f"{format_duration(each * (self.total - n_ended))} left" if n_ended < self.total else ""
            self._overall.update(self._task, completed=n_ended, left=time_left)
            self._live.refresh()
        elif not console.quiet:
            print(f"{n_ended}/{self.total}  {self._format_trial(trial, outcome)}", flush=True)

    def _format_trial(self, trial: Trial, outcome: Outcome) -> str:
        """Return a line with the run of a trial, or with its value if it has several runs, or if none ended here."""
        repeats = self.plan.repeats
        place = display_path(self.plan.run_folder(trial.ordinal, repeats[0]))
        if len(repeats) == 1 and (run := next((r for r in self._latest if r.path == place), None)):
            return _format_run(run)
        value = f"{self.plan.objective} {format_metric(outcome.value)}" if outcome.verdict == "done" else ""
        several = f", {self.plan.statistic} of {len(repeats)} runs" if value and len(repeats) > 1 else ""
        return "  ".join(filter(None, (self._title(trial.point), outcome.verdict, value + several)))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _title(self, point: Any) -> str:
        return self.plan.title(point, Repeat("", ()))

    def _find_best(self) -> None:
        best = self._study.best()
        if best is not None and best.value is not None:
            self._best = (self._title(self._study.point(best) or ()), best.value, self._study.locate(best))

    # ------------------------------------------------------------------------------------------- results

    def report(self, counts: Counts | None, flags: Sequence[str]) -> None:
        """Print a table of the runs or of their means, and commands to type next; resuming needs the flags."""
        self.close()
        if console.quiet or not self._has_begun:
            return
        plan, path = self.plan, display_path(self.plan.folder)
        address = plan.storage or ""
        database = [f"hydra.sweeper.storage={mask_passwords(address)}"] if "://" in address else []
        resume_command = f"dlopt train resume={shlex.quote(path)} {shlex.join([*database, *flags])}".rstrip()
        if counts is None:
            suggest({resume_command: "resumes where it stopped"})
            return
        repeated = [key for key in REPEAT_KEYS if self._repeats(key)]
        self._print_table(counts, repeated)
        others = [f"{n} {verdict}" for verdict, n in counts.by_verdict.items() if verdict != "done"]
        verdicts = f" ({', '.join(others)})" if others else ""
        print(f"\n{counts.n_ended} of {counts.total} {self._unit}{verdicts}, in {path}")
        if self._best is not None and plan.space.axes:
            title, value, (folder, host) = self._best
            of = "median " if plan.statistic == "median" and len(plan.repeats) > 1 else ""
            # With a database, it may be of another sweep or on another host.
            location = to_printable(f"{display_path(folder)} on {host}" if host else display_path(folder))
            print(f"best: {of}{plan.objective} {format_metric(value)} with {title}, in {location}")
        if counts.running:
            print(f"{counts.running} {'is' if counts.running == 1 else 'are'} running in other processes")
        path = shlex.quote(path)
        lines = {}
        if counts.n_ended + counts.running < counts.total:
            lines[resume_command] = "resumes where it stopped"
        if counts.by_verdict.get("failed"):
            lines[f"{resume_command} hydra.sweeper.retry=true"] = "repeats failed runs"
        if plan.space.axes:
            lines[f"dlopt show {path}"] = "best points, importance; pictures with --png"
        repeated += ["seed"] if any(axis.key == "seed" for axis in plan.space.axes) else []
        if repeated:
            lines[f"dlopt runs {path} --over {','.join(repeated)}"] = "mean and standard deviation"
        else:
            lines[f"dlopt runs {path}"] = "every run; --sort, --where, --csv"
        lines[f"dlopt tensorboard {path}"] = "their curves in a browser"
        suggest(lines)

    def _print_table(self, counts: Counts, repeated: Sequence[str]) -> None:
        """Print the means of a small search with repeats, or in a terminal its runs."""
        from dlopt.analysis.run_table import group_runs, read_runs
        from dlopt.cli.runs import get_terminal_width
        from dlopt.report.tables import make_mean_table, make_run_table

        has_means = bool(repeated and counts.n_ended)
        if self.total * len(self.plan.repeats) > MAX_TABLE_RUNS or not (has_means or self.console.is_terminal):
            return
        runs = read_runs(self.plan.folder)
        if runs:
            table = make_mean_table(group_runs(runs, repeated), repeated) if has_means else make_run_table(runs)
            print(table.text(get_terminal_width()))

    def _repeats(self, key: str) -> bool:
        """Return whether each point is repeated over a key."""
        return any(o.startswith(f"{key}=") for repeat in self.plan.repeats for o in repeat.overrides)

    @property
    def _unit(self) -> str:
        """Return the unit of the counts: runs, or points of several runs."""
        count = len(self.plan.repeats)
        return "runs" if count == 1 else f"points of {count} runs each"

    # ------------------------------------------------------------------------------------------- drawing

    def _render(self) -> Group:
        parts: list[Any] = []
        headline = (name for run in self._latest for name in select_headline(run.summary))
        metrics = dict.fromkeys(name for name in headline if not name.startswith("train/"))
        names = sorted(metrics, key=lambda name: (name != self.plan.objective, not name.startswith("val/")))
        names = names[: max(1, (self.console.width - 50) // 14)]
        if self._latest:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("run", overflow="ellipsis", no_wrap=True)
            table.add_column("")
            for name in names:
                table.add_column(name, justify="right")
            for run in self._latest:
                status = "" if run.status == "done" else run.status
                table.add_row(Text(run.title), status, *(format_metric(run.summary.get(n)) for n in names))
            parts.append(table)
        if self._follower is not None:
            title = next((title for title, _ in self._running.values()), "")
            parts += [Text(title, style="bold", overflow="ellipsis", no_wrap=True), self._follower.get_renderable()]
        elif self._running:
            parts.append(self._render_worker_runs())
        if self._best is not None:
            title, value, (folder, _) = self._best
            best = f"best  {self.plan.objective} {format_metric(value)}  {title}  (trial {folder.name})"
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


def _format_run(run: _FinishedRun) -> str:
    metrics = "  ".join(f"{name} {format_metric(run.summary[name])}" for name in select_headline(run.summary))
    return "  ".join(filter(None, (run.title, run.status, metrics, run.path)))

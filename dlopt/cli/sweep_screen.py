"""What is seen of a search: the best so far, what is under way, the latest results, one bar for all; then a table."""

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
from dlopt.cli.dry_run import searched
from dlopt.cli.progress import Follower, suggest
from dlopt.formatting import duration, number
from dlopt.metrics.names import headline
from dlopt.rundir.directory import Run
from dlopt.rundir.display import as_typed
from dlopt.storage.safe_read import printable, without_passwords
from dlopt.sweep.repeats import Repeat

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from dlopt.sweep.compose import Job
    from dlopt.sweep.cost_forecast import Outlook
    from dlopt.sweep.search import Plan
    from dlopt.sweep.study import Counts, Outcome, Study, Trial

LATEST = 8
"""Finished runs that are shown while the sweep goes on."""
WHOLE = 40
"""Runs up to which a sweep ends with the table of all of them."""
REPEATED = ("seed", "validation.fold")
"""What a point can be repeated over."""
LOOK = 2.0
"""Seconds between two looks at how far runs in other processes are."""


class _Ended(NamedTuple):
    title: str
    path: str
    status: str
    summary: Mapping[str, Any]


class Sweep:
    """The screen of one search: in a terminal a live one, elsewhere a line for each run."""

    def __init__(self) -> None:
        self.console = Console()
        self.plan: Plan | None = None
        self._latest: deque[_Ended] = deque(maxlen=LATEST)
        self._running: dict[Path, tuple[str, float]] = {}
        self._follower: Follower | None = None
        self._looked = (0.0, {})  # type: tuple[float, dict[Path, str]]
        self._over: dict[str, int] = {}
        self._best: tuple[str, float, FrozenTrial] | None = None
        self._began = time.monotonic()
        self._here = 0
        self._live: Live | None = None

    def begin(self, plan: Plan, study: Study) -> Sweep:
        """A search begins, or goes on; it is its own stage."""
        self.plan, self._study = plan, study
        counts = study.counts()
        self._over, self.total, self._before = counts.ended, counts.total, counts.over
        self._find_best()
        if self._before and not console.quiet:
            left = self.total - self._before
            said = f"{left} left" if left else "nothing is left to do"
            print(f"{as_typed(plan.folder)}: {self._before} of {self.total} {self._things} are over, {said}")
        if console.is_terminal():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._overall = Bars(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console)
            self._task = self._overall.add_task(
                "[bold]" + self._things.split()[0], total=self.total, completed=self._before, left=""
            )
            self._live = Live(get_renderable=self._drawn, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def planned(self, outlook: Outlook) -> None:
        """Nothing is to be started: says what would be."""
        searched(outlook)

    # ------------------------------------------------------------------------------------------- the stage

    def follow(self, title: str, follower: Follower) -> None:
        """The run under way in this process has a bar of its own."""
        self._follower = follower

    def started(self, job: Job) -> None:
        self._running[job.path] = (job.title, time.monotonic())

    def ended(self, job: Job, status: str, summary: Mapping[str, Any]) -> None:
        self._running.pop(job.path, None)
        self._follower = None
        self._latest.append(_Ended(job.title, as_typed(job.path), status, summary))
        if "message" in summary:
            said = str(summary["message"]).partition("\n")[0]
            print(printable(f"{as_typed(job.path)} {status}: {said}"), file=sys.stderr)
        if self._live is None and not console.quiet and self.plan is not None and len(self.plan.repeats) > 1:
            print(f"    {_line(self._latest[-1])}", flush=True)

    def told(self, trial: Trial, found: Outcome) -> None:
        assert self.plan is not None
        self._here += 1
        self._over[found.verdict] = self._over.get(found.verdict, 0) + 1
        over = sum(self._over.values())
        self._find_best()
        if self._live is not None:
            each = (time.monotonic() - self._began) / self._here
            left = f"{duration(each * (self.total - over))} left" if over < self.total else ""
            self._overall.update(self._task, completed=over, left=left)
            self._live.refresh()
        elif not console.quiet:
            if len(self.plan.repeats) > 1:
                of = f"{self.plan.statistic} of {len(self.plan.repeats)} runs"
                value = f"  {self.plan.objective} {number(found.value)}, {of}" if found.verdict == "done" else ""
                words = (f"{over}/{self.total}", self._title(trial.point), found.verdict + value)
                print("  ".join(filter(None, words)), flush=True)
            else:
                print(f"{over}/{self.total}  {_line(self._latest[-1])}", flush=True)

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

    def _place(self, trial: FrozenTrial) -> str:
        """Where the runs of a trial are, which need not be below this sweep's directory: a database has several."""
        folder, host = self._study.home(trial)
        on = f" on {host}" if host else ""
        return printable(f"{as_typed(folder / str(trial.number))}{on}")

    # ------------------------------------------------------------------------------------------- the end

    def report(self, counts: Counts | None, flags: Sequence[str]) -> None:
        """The table of its runs, or of their means, and what to type next; flags are what going on with it takes."""
        self.close()
        if console.quiet or self.plan is None:
            return
        to_go_on = self._to_go_on(self.plan, flags)
        going_on = {to_go_on: "goes on where it stopped"}
        if counts is None:
            suggest(going_on)
            return
        from dlopt.analysis.run_table import records
        from dlopt.cli.runs import width
        from dlopt.report.tables import each, over

        folder, repeated = self.plan.folder, [key for key in REPEATED if self._repeats(key)]
        found = records(folder) if self.total * len(self.plan.repeats) <= WHOLE else []
        if found and repeated and counts.over:
            print(over(found, repeated).text(width()))
        elif found and self.console.is_terminal:
            print(each(found).text(width()))
        place = as_typed(folder)
        others = [f"{n} {verdict}" for verdict, n in counts.ended.items() if verdict != "done"]
        said = f" ({', '.join(others)})" if others else ""
        print(f"\n{counts.over} of {counts.total} {self._things}{said}, in {place}")
        if self._best is not None and self.plan.space.axes:
            title, value, trial = self._best
            of = "median " if self.plan.statistic == "median" and len(self.plan.repeats) > 1 else ""
            print(f"best: {of}{self.plan.objective} {number(value)} with {title}, in {self._place(trial)}")
        if counts.running:
            print(f"{counts.running} {'is' if counts.running == 1 else 'are'} under way in other processes")
        place = shlex.quote(place)
        lines = going_on if counts.over + counts.running < counts.total else {}
        if counts.ended.get("failed"):
            lines[f"{to_go_on} hydra.sweeper.retry=true"] = "tries again what failed"
        if self.plan.space.axes:
            lines[f"dlopt show {place}"] = "best points, what matters; pictures with --png"
        repeated += ["seed"] if any(axis.key == "seed" for axis in self.plan.space.axes) else []
        means = f" --over {','.join(repeated)}" if repeated else ""
        lines[f"dlopt runs {place}{means}"] = (
            "mean and standard deviation" if means else "every run; --sort, --where, --csv"
        )
        lines[f"dlopt tensorboard {place}"] = "their curves, in a browser"
        suggest(lines)

    def _to_go_on(self, plan: Plan, flags: Sequence[str]) -> str:
        """The command that goes on with the search."""
        where = plan.storage or ""
        database = [f"hydra.sweeper.storage={without_passwords(where)}"] if "://" in where else []
        return " ".join(
            [f"dlopt train resume={shlex.quote(as_typed(plan.folder))}", *map(shlex.quote, [*database, *flags])]
        )

    def _repeats(self, key: str) -> bool:
        """Whether each point is repeated over a key."""
        assert self.plan is not None
        return any(o.startswith(f"{key}=") for repeat in self.plan.repeats for o in repeat.overrides)

    @property
    def _objective(self) -> str:
        return self.plan.objective if self.plan is not None else ""

    @property
    def _things(self) -> str:
        """What is counted."""
        assert self.plan is not None
        count = len(self.plan.repeats)
        return "runs" if count == 1 else f"points of {count} runs each"

    # ------------------------------------------------------------------------------------------- drawing

    def _drawn(self) -> Group:
        parts: list[Any] = []
        found = dict.fromkeys(n for e in self._latest for n in headline(e.summary) if not n.startswith("train/"))
        names = sorted(found, key=lambda name: (name != self._objective, not name.startswith("val/")))
        names = names[: max(1, (self.console.width - 50) // 14)]
        if self._latest:
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column("run", overflow="ellipsis", no_wrap=True)
            table.add_column("")
            for name in names:
                table.add_column(name, justify="right")
            for ended in self._latest:
                status = "" if ended.status == "done" else ended.status
                table.add_row(Text(ended.title), status, *(number(ended.summary.get(n)) for n in names))
            parts.append(table)
        if self._follower is not None:
            title = next((title for title, _ in self._running.values()), "")
            parts += [Text(title, style="bold", overflow="ellipsis", no_wrap=True), self._follower.get_renderable()]
        elif self._running:
            parts.append(self._elsewhere())
        if self._best is not None and self.plan is not None:
            title, value, trial = self._best
            said = f"best  {self.plan.objective} {number(value)}  {title}  (trial {trial.number})"
            parts.append(Text(said, style="green", overflow="ellipsis", no_wrap=True))
        bad = [f"{n} {verdict}" for verdict, n in self._over.items() if verdict != "done"]
        if bad:
            parts.append(Text(", ".join(bad), style="yellow"))
        return Group(*parts, self._overall.get_renderable())

    def _elsewhere(self) -> Table:
        """The runs in other processes, and how far they are, as their directories tell."""
        now = time.monotonic()
        if now - self._looked[0] >= LOOK:
            self._looked = (now, {path: _last(path) for path in list(self._running)})
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", overflow="ellipsis", no_wrap=True)
        table.add_column(justify="right")
        table.add_column(overflow="ellipsis", no_wrap=True)
        for path, (title, since) in list(self._running.items()):
            table.add_row(Text(title), duration(now - since), self._looked[1].get(path, ""))
        return table


def _last(path: Path) -> str:
    """The last row of a run in a few words."""
    row = Run(path).last_row()
    if row is None:
        return ""
    return f"epoch {row['epoch']:g}  " + "  ".join(f"{n} {number(row[n])}" for n in headline(row)[-2:])


def _line(ended: _Ended) -> str:
    found = "  ".join(f"{k} {number(ended.summary[k])}" for k in headline(ended.summary))
    return "  ".join(filter(None, (ended.title, ended.status, found, ended.path)))

"""What is seen of a multirun: one bar for all of it, the run under way and the latest results; then a table."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from dlopt import screen
from dlopt.cli.places import as_typed
from dlopt.cli.progress import Follower, suggest
from dlopt.metrics import duration, headline, number

LATEST = 8
"""Finished runs that are shown while the sweep goes on."""
WHOLE = 40
"""Runs up to which a sweep ends with the table of all of them."""


class Sweep:
    """One multirun, in a terminal a live screen, elsewhere a line for each run.

    folder is that of the sweep, jobs the overrides of each of its runs.
    """

    def __init__(self, folder: Path, jobs: Sequence[Sequence[str]]) -> None:
        self.folder = folder
        self.total = len(jobs)
        self.done = 0
        counts = Counter(override for job in jobs for override in set(job))
        self._common = {o for o, n in counts.items() if n == len(jobs)} if len(jobs) > 1 else set()
        self.console = Console()
        self._latest: deque[tuple[str, str, dict[str, Any]]] = deque(maxlen=LATEST)
        self._now: tuple[str, Follower] | None = None
        self._began = time.monotonic()
        self._live: Live | None = None
        if screen.is_terminal():
            columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn()]
            self._overall = Bars(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console)
            self._task = self._overall.add_task("[bold]runs", total=self.total, left="")
            self._live = Live(get_renderable=self._drawn, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def title(self, overrides: Iterable[str]) -> str:
        """What tells a run from the others of the sweep."""
        return " ".join(o for o in overrides if o not in self._common)

    def begin(self, title: str, follower: Follower) -> None:
        self._now = (title, follower)

    def end(self, title: str, path: str, status: str, summary: dict[str, Any]) -> None:
        self.done += 1
        self._now = None
        self._latest.append((title, status, summary))
        if self._live is not None:
            each = (time.monotonic() - self._began) / self.done
            left = f"{duration(each * (self.total - self.done))} left" if self.done < self.total else ""
            self._overall.update(self._task, completed=self.done, left=left)
        elif not screen.quiet:
            found = "  ".join(f"{k} {number(summary[k])}" for k in headline(summary))
            print(f"{self.done}/{self.total}  {title}  {status}  {found}  {path}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def report(self) -> None:
        """The table of its runs, and what to type next."""
        self.close()
        if screen.quiet:
            return
        from dlopt.cli.runs import width
        from dlopt.report.records import records, varying
        from dlopt.report.tables import each

        found = records(self.folder)
        place = as_typed(self.folder)
        if self.console.is_terminal and 0 < len(found) <= WHOLE:
            print(each(found).text(width()))
        counts = Counter(r.status for r in found if r.status != "done")
        others = f" ({', '.join(f'{n} {status}' for status, n in counts.items())})" if counts else ""
        print(f"\n{len(found)} of {self.total} runs{others}, in {place}")
        inside = as_typed(self.folder.parent.parent) == "outputs/multirun"
        name = "last" if inside else place
        over = {f"dlopt runs {name} --over seed": "mean and standard deviation over seeds"}
        lines = {f"dlopt runs {name}": "this table; --sort, --where, --csv, --png"}
        lines |= over if "seed" in varying(found) else {}
        suggest(lines | {f"dlopt tensorboard {place}": "their curves, in a browser"})

    def _drawn(self) -> Group:
        names = list(dict.fromkeys(n for *_, s in self._latest for n in headline(s) if not n.startswith("train/")))
        names = names[-max(1, (self.console.width - 50) // 14) :]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("run", overflow="ellipsis", no_wrap=True)
        table.add_column("")
        for name in names:
            table.add_column(name, justify="right")
        for title, status, summary in self._latest:
            table.add_row(Text(title), "" if status == "done" else status, *(number(summary.get(n)) for n in names))
        parts: list[Any] = [table] if self._latest else []
        if self._now is not None:
            title, follower = self._now
            parts += [Text(title, style="bold", overflow="ellipsis", no_wrap=True), follower.get_renderable()]
        return Group(*parts, self._overall.get_renderable())

"""What is seen while a run goes on, and when it is over."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from dlopt.cli.places import as_typed
from dlopt.metrics import headline, number
from dlopt.report.results import results
from dlopt.run import Row, Run
from dlopt.watch import Watch

WIDE = 110
"""Columns of a terminal from which on training metrics stand beside those of validation."""
PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is no terminal."""


class Progress(Watch):
    """A bar in a terminal, lines now and then elsewhere. The loop only leaves numbers here; another thread draws."""

    def __init__(self, title: str, *, many: bool = False) -> None:
        super().__init__()
        self.title = title
        self.many = many
        self.console = Console()
        self.metrics = ""
        self._said = time.monotonic()
        self._bars: _Follower | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._bars = _Follower(self, self.console)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def row(self, run: Run, row: Row) -> None:
        names = headline(row) if self.console.width >= WIDE else headline(row)[-2:]
        self.metrics = "  ".join(f"{name} {number(row[name])}" for name in names)
        if self._bars is None and time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            print(f"step {self.step}/{self.steps}  {self.metrics}", flush=True)

    def report(self, run: Run, summary: dict[str, Any], path: str) -> None:
        """The results, where they lie, and what to type next."""
        status = summary["status"]
        if self.many:
            found = "  ".join(f"{k} {number(v)}" for k, v in summary.items() if k in headline(summary))
            self.console.print(
                f"{path}  {status}  {found}  [{self.title}]", markup=False, highlight=False, soft_wrap=True
            )
            return
        self.console.print(results(summary))
        said = {
            "done": f"done: {summary['step']} steps in {summary['seconds']:.1f} s of training",
            "diverged": f"diverged: the loss is not finite, seen after step {summary['step']}; try a smaller rate",
            "interrupted": f"interrupted after step {summary['step']}; it is saved",
        }[status]
        rate = summary.get("steps_per_second")
        print(said + (f" ({rate:,.0f} steps per second)" if rate and status == "done" else ""))
        inside = path.startswith("outputs/")
        at = "" if shutil.which("dlopt") else f"{as_typed(Path(sys.executable).parent)}/"  # no environment is active
        lines = {
            f"{at}dlopt show{'' if inside else ' ' + path}": "this table again, with the settings",
            f"{at}tensorboard --logdir {'outputs' if inside else path}": "its curves, beside those of other runs",
            f"{at}dlopt list": "what else there is to try",
        }
        if status == "interrupted":
            lines = {f"{at}dlopt train resume={path}": "goes on where it stopped"} | lines
        width = max(map(len, lines))
        print(f"\nthe run is in {path}")
        for command, what in lines.items():
            print(f"  {command:<{width}}   {what}")


class _Follower(Bars):
    """Bars that look at the loop's counters themselves, four times a second."""

    def __init__(self, watch: Progress, console: Console) -> None:
        self._follows = False  # looked at by super().__init__
        super().__init__(
            BarColumn(bar_width=24 if console.width >= WIDE else 10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._watch = watch
        self._began = time.monotonic()
        self._task = self.add_task("steps", total=None, rate="", metrics="")
        self._follows = True

    def get_renderables(self) -> Any:
        if self._follows:
            w = self._watch
            rate = w.step / max(time.monotonic() - self._began, 1e-9)
            self._follows = False  # update asks for renderables again
            self.update(self._task, total=w.steps or None, completed=w.step, rate=f"{rate:,.0f}/s", metrics=w.metrics)
            self._follows = True
        yield from super().get_renderables()

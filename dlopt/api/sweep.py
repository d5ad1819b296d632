"""A sweep as an object: the table of its runs, their curves, and the best one."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.analysis.run_table import group_runs, read_runs
from dlopt.api import frames
from dlopt.api.pictures import draw_curves
from dlopt.api.run import Run
from dlopt.rundir.display import display_path
from dlopt.runner.open_run import RunError

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


def open_sweep(name: str | Path = "last") -> Sweep:
    """Return an existing sweep by its directory, a part of its name, or `last`. Raises RunError if none has this name.

    dlopt.open_sweep("last").best()
    """
    from dlopt.rundir.find import find_sweep

    path = find_sweep(str(name))
    if path is None:
        raise RunError(f"there is no sweep '{name}'; dlopt.runs() lists all runs")
    return Sweep(path)


class Sweep:
    """A sweep: what `dlopt.train(..., multirun=True)` and `dlopt.open_sweep` return. It reads the files of its runs.

        sweep = dlopt.train(["optimizer=sgd,adam", "seed=0,1,2"], multirun=True)
        sweep.runs(over="seed")               # a frame with a row for each optimizer: mean and sd of each metric
        sweep.plot("val/loss", over="seed")   # one line for each optimizer, with a band
        sweep.best().predictor()

    Attributes:
        path   the directory, which holds a directory for each run: 0, 1, ...
    """

    def __init__(self, path: str | Path, *, is_trusted: bool = False) -> None:
        """Refer to the sweep in a directory. is_trusted: whether custom classes that it names may be executed."""
        self.path = Path(path)
        self._is_trusted = is_trusted

    def runs(self, **options: Any) -> pl.DataFrame:
        """Return a polars frame with a row for each run; options are the keyword arguments of `dlopt.runs`.

        sweep.runs(sort="val/loss", columns=["optimizer.lr", "val/loss"])
        """
        return frames.runs(self.path, **options)

    def best(self) -> Run:
        """Return the finished run with the best objective. Raises RunError if none is finished.

        sweep.best().settings["optimizer.lr"]
        """
        from dlopt.analysis.search_record import find_best_run

        best, _ = find_best_run(self.path)
        if best is None:
            raise RunError(f"{display_path(self.path)} is a sweep, and none of its runs is done")
        return Run(best.path, is_trusted=self._is_trusted)

    def plot(self, *metrics: str, over: str | Sequence[str] = (), title: str | None = None) -> Figure:
        """Return a matplotlib figure with a line for each run, the picture of `dlopt runs SWEEP --png`.

        metrics   names in rows, such as "val/loss"; by default loss and accuracy of validation
        over      the keys over which to average, such as "seed": a line is then a mean with its standard deviation
        title     by default the directory

        Raises ValueError if no run has such a curve.

            sweep.plot("val/accuracy", over="seed")
        """
        from dlopt.report.curves import describe_counts, make_group_panels

        repeated = [over] if isinstance(over, str) else list(over)
        panels = make_group_panels(group_runs(read_runs(self.path), repeated), metrics)
        heading = display_path(self.path) if title is None else title
        if repeated:
            parts = [heading, f"mean ± sd over {', '.join(repeated)}", describe_counts(panels)]
            heading = ", ".join(filter(None, parts))
        return draw_curves(panels, heading)

    def __repr__(self) -> str:
        counts = frames.runs(self.path)["status"].value_counts(sort=True).rows()
        return f"<Sweep {display_path(self.path)}: {', '.join(f'{n} {status}' for status, n in counts) or 'no runs'}>"

    def _repr_html_(self) -> str:
        from dlopt.report.tables import make_run_table

        records = read_runs(self.path)
        text = make_run_table(records).text(None) if records else repr(self)
        return f"<pre>{html.escape(text)}</pre>"

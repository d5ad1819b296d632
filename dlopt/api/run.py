"""One run as an object: its results, its curves and its network."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.analysis.run_table import RunRecord, read_run
from dlopt.api.frames import make_frame
from dlopt.api.load import load
from dlopt.api.opening import open_directory
from dlopt.api.pictures import draw_curves
from dlopt.api.process_state import keep_output
from dlopt.formatting import format_metric
from dlopt.metrics.names import select_headline
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from dlopt.training.inference import Predictor


def open_run(name: str | Path = "last") -> Run:
    """Return an existing run in any state, by its directory, a unique part of its name, or `last`.

    Of a sweep, return its best finished run. Raises RunError if no run has this name.

        dlopt.open_run("mlp-sgd").plot("accuracy")
    """
    with keep_output(quiet=True), open_directory(str(name), trust=True, outcome="nothing was opened") as run:
        return Run(run.path)


class Run:
    """One run: what `dlopt.train` and `dlopt.open_run` return.

    It reads the files of the run directory when it is asked, so a run that still trains can be followed. Printing it
    shows its results.

        run = dlopt.train(["data=digits", "epochs=5"])
        run.summary["val/accuracy"], run.status
        run.curves().select("epoch", "train/loss", "val/loss")
        run.plot("loss", "accuracy")
        run.predictor().predict(inputs)

    Attributes:
        path      the run directory
        notices   what `dlopt.train` has noted about the configuration, such as a loss that was chosen for the data
    """

    def __init__(self, path: str | Path, *, notices: Sequence[str] = (), is_trusted: bool = False) -> None:
        """Refer to the run in a directory. is_trusted: whether custom classes that it names may be executed."""
        self.path = Path(path)
        self.notices = tuple(notices)
        self._directory = RunDirectory(self.path)
        self._is_trusted = is_trusted

    @property
    def status(self) -> str:
        """The state: running, done, diverged, pruned, failed, interrupted, dead (its process is gone) or damaged."""
        return self._read().status

    @property
    def message(self) -> str:
        """Why the run failed or ended, or a warning about its result; may be empty."""
        return self._read().message

    @property
    def summary(self) -> dict[str, Any]:
        """The final metrics: val/loss, test/accuracy, ... at the best weights, and under last/ at the last ones.

        Before the end of the run, the metrics of its last row.
        """
        return self._read().metrics

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen options and all hyperparameters, flat: optimizer, optimizer.lr, ..."""
        return self._read().settings

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration as nested dictionaries, as .hydra/config.yaml holds it."""
        return self._directory.config()

    def curves(self) -> pl.DataFrame:
        """Return every logged row: step, epoch, seconds, lr, train/loss, val/loss, ... and values of diagnostics.

        A value that a row does not have is null.

            run.curves().drop_nulls("val/loss").sort("val/loss").head(1)
        """
        rows = self._directory.rows()
        names = dict.fromkeys(["step", "epoch", "seconds", *(name for row in rows for name in row)])
        return make_frame({name: [row.get(name) for row in rows] for name in names})

    def plot(self, *names: str, title: str | None = None) -> Figure:
        """Return a matplotlib figure of the curves, the picture of `dlopt show --png`.

        names   the curves, such as "accuracy", "gradient/norm", or "update/ratio/" for every name below it; by default
                loss, accuracy and the pairs of diagnostics
        title   by default the directory

        Raises ValueError for a name without a curve, or if the run has not logged a curve.

            run.plot("loss").savefig("loss.pdf")
        """
        from dlopt.report.curves import select_panels

        panels = select_panels(self._directory.rows(), names)
        return draw_curves(panels, display_path(self.path) if title is None else title)

    def predictor(
        self, checkpoint: str | int = "best", *, device: str = "auto", trust: bool | None = None
    ) -> Predictor:
        """Return the network for inference: as `dlopt.load` of this run.

        trust: by default, custom classes are executed only if this process has trained the run.

            run.predictor("last").evaluate("val")
        """
        return load(self.path, checkpoint, device=device, trust=self._is_trusted if trust is None else trust)

    def __repr__(self) -> str:
        record = self._read()
        headline = select_headline(record.metrics)
        names = [name for name in headline if name.startswith("val/")] or headline
        metrics = "".join(f", {name} {format_metric(record.metrics[name])}" for name in names)
        return f"<Run {record.name}: {record.status}{metrics}>"

    def __str__(self) -> str:
        from rich.console import Console

        from dlopt.report.summary import make_summary_table

        record = self._read()
        text = io.StringIO()
        if record.metrics:
            Console(file=text, width=100, force_terminal=False, force_jupyter=False).print(
                make_summary_table(record.metrics)
            )
        reason = f": {record.message}" if record.message else ""
        return f"{text.getvalue()}{record.status}{reason}, in {record.name}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def _read(self) -> RunRecord:
        return read_run(self.path, display_path(self.path))

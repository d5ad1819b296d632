"""Predictions for each row of a file, as a polars frame."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.api.opening import open_directory
from dlopt.api.process_state import keep_process_state

if TYPE_CHECKING:
    import polars as pl

OUTCOME = "nothing was predicted"


def predict(
    file: str | Path,
    run: str | Path | Sequence[str | Path] = "last",
    *,
    checkpoint: str | int = "best",
    data: str | Sequence[str] = (),
    top: int | None = None,
    device: str = "auto",
    trust: bool = False,
) -> pl.DataFrame:
    """Return a frame with a row for each example of a file: its own columns and those of `dlopt predict`.

    These are prediction and probability_CLASS, or prediction in the units of the target. The target need not be there.
    For tensors in memory, take `dlopt.load`; for files that exceed memory, `dlopt predict FILE --out predictions.csv`.

    file         a table, an array, or a folder of images or texts, of the kind of the run's data
    run          a directory, a unique part of its name, or `last`; of a sweep, its best finished run; several are an
                 ensemble: the mean over the runs, and sd_CLASS or sd
    checkpoint   best, last, average, or a number of steps
    data         how to read the file, if it differs from training, such as "data.missing=fill"
    top          the number of most probable classes, in place of the probability of every class
    device       auto, cpu, cuda, ...
    trust        execute code that a run names, such as custom classes

    What is odd about the file, such as unknown categories, are Python warnings. Raises RunError if a run cannot be
    opened, and ConfigError if the file cannot be read or does not fit the run.

        dlopt.predict("new.csv", "last").select("id", "prediction")
    """
    names = [run] if isinstance(run, str | Path) else list(run)
    arguments = [str(Path(file).expanduser().absolute()), *([data] if isinstance(data, str) else data)]
    with keep_process_state(quiet=True), contextlib.ExitStack() as stack:
        runs = [stack.enter_context(open_directory(str(name), trust=trust, outcome=OUTCOME)) for name in names]
        import polars

        from dlopt.cli.predict import check_top
        from dlopt.config.reopen.predict_file import open_file
        from dlopt.report.predictions.columns import list_part
        from dlopt.report.predictions.files import open_prediction_file

        predictor, notices = open_file(runs, arguments, str(checkpoint), device=device, trust=trust)
        check_top(predictor, top)
        whole = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "predictions.parquet"
        with open_prediction_file(whole) as write:
            for part in predictor:
                write(list_part(predictor, part, top), part.source)
        notices += predictor.notices()
        frame = polars.read_parquet(whole, memory_map=False)
    for notice in notices:
        warnings.warn(notice, stacklevel=2)
    return frame

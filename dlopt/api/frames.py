"""Tables of runs and of rows as polars frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.analysis.run_table import RunRecord, group_runs, read_runs, sort_groups
from dlopt.analysis.select_runs import select_runs
from dlopt.formatting import format_override
from dlopt.report import tables
from dlopt.runner.open_run import RunError

if TYPE_CHECKING:
    import polars as pl

LARGEST_INTEGER = 2**63 - 1


def runs(
    directory: str | Path | None = None,
    *,
    where: str | Sequence[str] = (),
    over: str | Sequence[str] = (),
    columns: str | Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
) -> pl.DataFrame:
    """Return a polars frame with a row for each run: every setting and every final metric, as `dlopt runs --csv`.

    Numbers are numbers: `started` is a time, `time` are seconds of training, a setting such as batch_size is text only
    if some run has a word there. Unfinished runs have the metrics of their last row.

    directory   a folder of runs, a part of a sweep's name, or `last`; by default outputs/
    where       conditions as `dlopt runs --where` takes them, such as "optimizer=adam,sgd" or "optimizer.lr<0.01"
    over        the keys over which to average, such as "seed": a row then has METRIC mean, METRIC sd and METRIC n
    columns     only these settings and metrics; also one that only rows have, such as "gradient/norm": its last value
    sort        a setting, or a metric with the best run first; by default by time
    reverse     reverse the order

    Raises RunError if the folder does not exist, and ValueError for a key that no run has. If the folder holds no runs,
    the frame is empty.

        dlopt.runs("last", over="seed", sort="val/loss").select("optimizer", "^val/loss.*$")
    """
    from dlopt.rundir.display import find_folder
    from dlopt.rundir.find import ROOT, RunNotFound
    from dlopt.storage import memory

    where, over, columns = map(_to_list, (where, over, columns))
    if directory is None and not ROOT.is_dir():
        return make_run_frame([], columns)
    try:
        folder = find_folder(None if directory is None else str(directory))
    except RunNotFound as error:
        raise RunError(str(error)) from error
    with memory.limit_memory():
        records = read_runs(folder)
        if not over:
            selected = select_runs(records, where, sort, columns)
            return make_run_frame(selected[::-1] if reverse else selected, columns)
        groups = group_runs(select_runs(records, where, names=[*([sort] if sort else []), *over, *columns]), over)
    groups = sort_groups(sort, groups, over) if sort else groups
    header, rows = tables.tabulate_means(groups[::-1] if reverse else groups, over, columns)
    return make_frame({name: [row[i] for row in rows] for i, name in enumerate(header)})


def make_run_frame(records: Sequence[RunRecord], columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return a frame with a row for each run, and the columns of `dlopt runs --csv`."""

    def get(record: RunRecord, name: str) -> Any:
        value = record.value(name)
        return datetime.fromtimestamp(int(value)) if tables.is_start(name, record) else value

    return make_frame({name: [get(r, name) for r in records] for name in tables.list_columns(records, columns)})


def make_frame(columns: Mapping[str, Sequence[Any]]) -> pl.DataFrame:
    """Return a frame in which each column has the narrowest type of its values: numbers, booleans, times or text."""
    import polars as pl

    return pl.DataFrame([_make_column(name, values) for name, values in columns.items()])


def _make_column(name: str, values: Sequence[Any]) -> pl.Series:
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} and all(abs(value) <= LARGEST_INTEGER for value in values if value is not None):
        return pl.Series(name, values, pl.Int64 if kinds else pl.Null)
    if kinds <= {int, float}:
        return pl.Series(name, [None if value is None else float(value) for value in values], pl.Float64)
    if kinds == {bool}:
        return pl.Series(name, values, pl.Boolean)
    if kinds == {datetime}:
        return pl.Series(name, values, pl.Datetime)
    return pl.Series(name, [None if value is None else format_override(value) for value in values], pl.String)


def _to_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)

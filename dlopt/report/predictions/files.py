"""Files of predictions, written a part at a time: CSV, Parquet or JSON lines.

The columns of the source are kept, and those of the predictions follow. The file appears when it is complete.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dlopt.base.data import SourceRows
from dlopt.report.predictions.columns import Values, format_values, name_columns
from dlopt.storage.atomic import atomic_write
from dlopt.storage.frame_rows import FrameRows, TypedRows

if TYPE_CHECKING:
    import polars

Write = Callable[[Values, SourceRows | None], None]
"""Writes predictions of consecutive examples, and the rows that they come from."""


@contextlib.contextmanager
def open_prediction_file(file: Path) -> Iterator[Write]:
    """Return a function that writes predictions; the file is there at the end, unless an exception was raised."""
    with atomic_write(file) as stream, WRITERS[file.suffix.lower()](file, stream) as write:
        yield write


@contextlib.contextmanager
def _write_csv(file: Path, stream: BinaryIO) -> Iterator[Write]:
    """Write text with the delimiter and the decimal mark of the source."""
    text = io.TextIOWrapper(stream, "utf-8", newline="")
    is_first = True

    def write(values: Values, source: SourceRows | None) -> None:
        nonlocal is_first
        writer = csv.writer(text, delimiter="," if source is None else source.delimiter, lineterminator="\n")
        if is_first:
            writer.writerow(_name_all(values, source))
        is_first = False
        texts = format_values(values, "." if source is None else source.decimal)
        rows = zip(*_spread(texts, source, ""), strict=True)
        writer.writerows(rows if source is None else ([*a, *b] for a, b in zip(source.cells, rows, strict=True)))

    yield write
    text.detach()


@contextlib.contextmanager
def _write_json(file: Path, stream: BinaryIO) -> Iterator[Write]:
    """Write an object for each row."""

    def write(values: Values, source: SourceRows | None) -> None:
        names = _name_all(values, source)
        rows: Any = zip(*_spread(values, source, None), strict=True)
        if source is not None:
            cells = source.cells.frame.iter_rows() if isinstance(source.cells, TypedRows) else source.cells
            rows = (itertools.chain(a, b) for a, b in zip(cells, rows, strict=True))
        for row in rows:
            record = {name: None if _is_nan(cell) else cell for name, cell in zip(names, row, strict=True)}
            stream.write(json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n")

    yield write


@contextlib.contextmanager
def _write_parquet(file: Path, stream: BinaryIO) -> Iterator[Write]:
    """Write a table: text of a CSV file stays text, and columns of a Parquet file keep their types."""
    import polars  # 0.7 s

    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as name:
        parts: list[Path] = []

        def write(values: Values, source: SourceRows | None) -> None:
            names = _name_all(values, source)[-len(values) :]
            kinds = [polars.Float64 if isinstance(x, np.ndarray) else polars.String for x in values.values()]
            columns = zip(names, _spread(values, source, None), kinds, strict=True)
            frame = polars.DataFrame([polars.Series(*column) for column in columns])
            if source is not None:
                frame = _read_frame(source).hstack(frame)
            parts.append(Path(name) / f"{len(parts)}.arrow")
            frame.write_ipc(parts[-1])

        yield write
        whole = Path(name) / "whole.parquet"
        polars.scan_ipc(parts).sink_parquet(whole)
        with whole.open("rb") as content:
            shutil.copyfileobj(content, stream)


WRITERS = {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_json}
"""The kinds of files by their endings."""


def _name_all(values: Values, source: SourceRows | None) -> list[str]:
    """Return the names of the columns of the source and of the predictions."""
    header = () if source is None else source.header
    return [*header, *name_columns(header, values)]


def _spread(values: Values, source: SourceRows | None, missing: Any) -> Iterator[list[Any]]:
    """Yield the cells of each column of predictions, one for each row of the source: `missing` without an example."""
    for column in values.values():
        cells = column.tolist() if isinstance(column, np.ndarray) else [*column]
        if source is None or len(source.rows) == len(source.cells):
            yield cells
            continue
        spread: list[Any] = [missing] * len(source.cells)
        for row, cell in zip(source.rows, cells, strict=True):
            spread[row] = cell
        yield spread


def _read_frame(source: SourceRows) -> polars.DataFrame:
    """Return the rows of a source as a frame."""
    import polars

    if isinstance(source.cells, TypedRows):
        return source.cells.frame
    if isinstance(source.cells, FrameRows):
        frame = source.cells.frame
        return frame.rename(dict(zip(frame.columns, source.header, strict=True)))
    return polars.DataFrame(list(source.cells), dict.fromkeys(source.header, polars.String), orient="row")


def _is_nan(cell: Any) -> bool:
    return isinstance(cell, float) and math.isnan(cell)

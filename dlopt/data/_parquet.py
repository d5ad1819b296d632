"""Parquet files as the text that a CSV file of the same table would have."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlopt.base.data import PART_ROWS
from dlopt.data import _files
from dlopt.data._cells import LARGEST, MISSING, Cell, NumberCells, TableText
from dlopt.data._csv import CELL, check_names
from dlopt.errors import OptionError
from dlopt.storage.frame_rows import TypedRows

if TYPE_CHECKING:
    import polars

MAGIC = b"PAR1"
"""The first and the last bytes of a Parquet file."""
SLICE = 4 * PART_ROWS
"""Rows that are read at once: for each slice, polars decodes all row groups that it touches."""


def is_parquet(file: Path) -> bool:
    """Return whether a file begins as a Parquet file does. Raise OptionError if it cannot be read."""
    with _files.open_data_file(file) as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_parquet(file: Path) -> TableText:
    """Read the cells of a Parquet file as text; its lines are its rows, from 1. Raise OptionError if it is not a table.

    Numbers are written with all their digits, dates and times as ISO 8601 does, and null as an empty cell.
    """
    import polars  # 0.7 s

    content = _files.read_data_file(file)
    with _report_errors(file):
        lazy = polars.scan_parquet(io.BytesIO(content))
        count = _check_table(file, lazy)
        _files.check_memory(file, CELL * count * len(lazy.collect_schema()))
        table = lazy.collect()
    rows = [list(row) for row in zip(*_format_columns(table), strict=True)]
    return TableText(table.columns, rows, [*range(1, count + 1)], ",")


def iter_parquet(file: Path) -> tuple[int, Iterator[tuple[TableText, int]]]:
    """Return the number of rows of a Parquet file, and an iterator of its parts, each with the number of rows so far.

    The cells are those of `read_parquet`, except that numbers may be written in another way.
    """
    import polars  # 0.7 s

    with _report_errors(file):
        lazy = polars.scan_parquet(file, glob=False)
        count = _check_table(file, lazy)

    def iter_parts() -> Iterator[tuple[TableText, int]]:
        for begin in range(0, count, SLICE):
            with _report_errors(file):
                table = lazy.slice(begin, SLICE).collect()
            for first in range(0, len(table), PART_ROWS):
                part = table.slice(first, PART_ROWS)
                line = begin + first + 1
                rows = TypedRows(part, _format_columns)
                yield ParquetText(part.columns, rows, range(line, line + len(part)), ","), line + len(part) - 1

    return count, iter_parts()


class ParquetText(TableText):
    """A part of a Parquet file; its rows are TypedRows."""

    __slots__ = ()

    def list_columns(self, names: Collection[str]) -> Iterator[Sequence[Cell]]:
        assert isinstance(self.rows, TypedRows)
        return (_read_cells(self.rows.frame[name]) for name in self.header if name in names)


def _read_cells(column: polars.Series) -> Sequence[Cell]:
    """Return the cells of a column; missing values are None."""
    import polars

    if column.dtype.is_integer() or column.dtype.is_float():
        values = column.cast(polars.Float64).fill_null(math.nan).to_numpy()
        if not (np.abs(values) >= LARGEST).any():
            return NumberCells(column.cast(polars.String), values)
    texts = map(_find_format(column.dtype), column.to_list())
    return [None if text.lower() in MISSING else text for text in texts]


@contextlib.contextmanager
def _report_errors(file: Path) -> Iterator[None]:
    """Raise OptionError if polars cannot read the file."""
    import polars

    try:
        yield
    except OptionError:
        raise
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OptionError("path", f"{file} is not a valid Parquet file: {reason}") from error


def _check_table(file: Path, lazy: polars.LazyFrame) -> int:
    """Return the number of rows. Raise OptionError if there are none, or if the columns are not those of a table."""
    import polars

    schema, count = lazy.collect_schema(), lazy.select(polars.len()).collect().item()
    check_names(file, schema.names())
    for name, kind in schema.items():
        if kind.is_nested() or kind in (polars.Binary, polars.Object):
            raise OptionError("path", f"{file}: {name} holds {kind}, not numbers, text or dates; leave it out")
    if not count:
        raise OptionError("path", f"{file} has no rows")
    return int(count)


def _format_columns(table: polars.DataFrame) -> list[list[str]]:
    """Return the text of the cells of each column."""
    return [list(map(_find_format(kind), table[name].to_list())) for name, kind in table.schema.items()]


def _find_format(kind: Any) -> Callable[[Any], str]:
    """Return the function that writes a cell of a column of this type."""
    if kind.is_temporal():
        return _format_time
    return _format_bool if str(kind) == "Boolean" else _format


def _format(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _format_bool(value: bool | None) -> str:
    return "" if value is None else str(value).lower()


def _format_time(value: Any) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else _format(value)

"""Parquet files as the text that a CSV file of the same table would have."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

from dlopt.data import _files
from dlopt.data._cells import TableText
from dlopt.data._csv import CELL, check_names
from dlopt.errors import OptionError

MAGIC = b"PAR1"
"""The first and the last bytes of a Parquet file."""


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
    failures = (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError)
    try:
        lazy = polars.scan_parquet(io.BytesIO(content))
        schema, count = lazy.collect_schema(), lazy.select(polars.len()).collect().item()
        check_names(file, schema.names())
        for name, kind in schema.items():
            if kind.is_nested() or kind in (polars.Binary, polars.Object):
                raise OptionError("path", f"{file}: {name} holds {kind}, not numbers, text or dates; leave it out")
        _files.check_memory(file, CELL * count * len(schema))
        table = lazy.collect()
    except OptionError:
        raise
    except failures as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OptionError("path", f"{file} is not a valid Parquet file: {reason}") from error
    if not count:
        raise OptionError("path", f"{file} has no rows")
    columns = [list(map(_find_format(kind), table[name].to_list())) for name, kind in schema.items()]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return TableText(list(schema.names()), rows, [*range(1, count + 1)], ",")


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

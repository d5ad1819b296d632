"""The rows of a CSV or Parquet file, a part at a time, and how its numbers are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from dlopt.data._cells import TableCells, TableText
from dlopt.data._csv_stream import iter_csv
from dlopt.data._decimals import Decimal, convert_commas, find_comma_columns
from dlopt.data._parquet import is_parquet, iter_parquet


class TableStream(NamedTuple):
    """The parts of a table, each with the amount that is read at its end, in bytes or rows.

    comma_columns   the columns whose commas are decimal points; None: `decimal` says it without a look at the file
    """

    parts: Iterator[tuple[TableText, int]]
    total: int
    unit: Literal["bytes", "examples"]
    decimal: Decimal
    comma_columns: frozenset[str] | None

    @property
    def decimal_mark(self) -> str:
        """Return the character before the decimals of numbers."""
        return "," if self.comma_columns or self.decimal == "comma" else "."

    def convert(self, table: TableCells, delimiter: str) -> TableCells:
        """Return cells of a part with decimal points."""
        return convert_commas(table, self.decimal, delimiter, self.comma_columns)


def open_table(file: Path, delimiter: str, encoding: str, decimal: Decimal) -> TableStream:
    """Open a table. One with a delimiter that is not a comma is read twice, to tell whether it has decimal commas."""
    if is_parquet(file):
        count, parts = iter_parquet(file)
        return TableStream(parts, count, "examples", "point", None)
    commas = None
    if decimal == "auto":
        commas = _find_comma_columns(file, delimiter, encoding)
    return TableStream(iter_csv(file, delimiter, encoding), file.stat().st_size, "bytes", decimal, commas)


def _find_comma_columns(file: Path, delimiter: str, encoding: str) -> frozenset[str]:
    """Return the columns of a CSV file with decimal commas; they are looked for if commas do not separate the cells."""
    texts = (text for text, _ in iter_csv(file, delimiter, encoding))
    first = next(texts)
    if first.delimiter == ",":
        return frozenset()
    return find_comma_columns(text.to_cells() for text in itertools.chain([first], texts))

"""The cells of a CSV file as text, with the line in which each row begins.

This is Python's csv module, not polars.read_csv, which reads 200,000 rows in 0.3 s against 3 s but takes 0.7 s to
import and gives no line numbers: it fills short rows and empty lines with nulls, renames columns of the same name,
reads quotes after a space as text, and does not know \\r as the end of a line. scikit-learn's encoders do not report
lines either, and would replace ten lines of table.py.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlopt.base.data import SourceRows
from dlopt.data import _decoding, _files
from dlopt.errors import OptionError, join_truncated

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "?"})
"""Cells that stand for a missing value, in lower case."""
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
LARGEST = float(np.finfo(np.float32).max)
WHOLE = 6
"""Bytes of memory per byte of a file while it is split into cells."""
CELL = 130
"""Bytes of memory per cell, measured with texts of up to 16 letters."""

Cell = str | None
"""The content of a row in a column; None if it is missing."""


class TableCells(NamedTuple):
    """The cells of a table, a list for each column, and the line of the file in which each row begins.

    has_index is whether the file has a first column without a name, which is left out.
    """

    columns: dict[str, list[Cell]]
    lines: list[int]
    has_index: bool = False


class TableText(NamedTuple):
    """The text of a table: the names of the columns, the cells of each row, and the line in which each row begins.

    delimiter is the character between two cells.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    delimiter: str

    @property
    def has_index(self) -> bool:
        """Return whether the first column has no name, as pandas writes the index of a table."""
        return len(self.header) > 1 and not self.header[0]

    def to_cells(self) -> TableCells:
        """Return the cells by columns; missing values are None."""
        cells = [[None if cell.lower() in MISSING else cell for cell in row] for row in self.rows]
        names = enumerate(self.header)
        columns = {name: [row[i] for row in cells] for i, name in names if i or not self.has_index}
        return TableCells(columns, self.lines, self.has_index)

    def locate(self, lines: Sequence[int]) -> SourceRows:
        """Return the text of the rows, and which of them begin in these lines."""
        row = {line: i for i, line in enumerate(self.lines)}
        return SourceRows(self.header, self.rows, [row[line] for line in lines])


def read_csv(file: Path, delimiter: str, encoding: str) -> TableText:
    """Read the cells of a CSV file without the spaces around them. Raise OptionError if the file is not a table."""
    content = _files.read_data_file(file)
    _files.check_memory(file, WHOLE * len(content))
    text = _decoding.decode(file, content, encoding)
    if not text.strip():
        raise OptionError("path", f"{file} is empty")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if delimiter == "auto":
        separator = max(DELIMITERS.values(), key=lambda d: _count_columns(text.lstrip(), d))
    else:
        separator = DELIMITERS.get(delimiter, delimiter)
        if len(separator) != 1 or separator in '"\r\n':
            raise OptionError("delimiter", f"must be auto, {', '.join(DELIMITERS)} or one character, got {delimiter!r}")
    _files.check_memory(file, CELL * (text.count(separator) + text.count("\n")))
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    blank = {number for number, line in enumerate(io.StringIO(text, newline=""), 1) if not line.strip()}
    try:
        first_line = 1
        for row in reader:
            if len(row) > 1 or first_line not in blank:  # the line "" is a row with one empty cell
                rows.append([cell.strip() for cell in row])
                lines.append(first_line)
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise OptionError("path", f"{file}, line {reader.line_num}: {error}") from error
    table = TableText(rows[0], rows[1:], lines[1:], separator)
    _check_shape(file, table.header, rows, lines, index=table.has_index)
    return table


def _count_columns(text: str, delimiter: str) -> int:
    """Return the number of columns in the header, whose names may contain line ends."""
    try:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)))
    except csv.Error:
        return 0


def _check_shape(
    file: Path, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int], *, index: bool
) -> None:
    named = header[1:] if index else header
    is_counted = list(named) == [str(i) for i in range(len(named))]  # as pandas writes columns without names
    if not is_counted and all(is_number(name) or name.lower() in MISSING for name in header):
        raise OptionError("path", f"{file} begins with numbers; its first line must hold the names of the columns")
    check_names(file, header)
    uneven = [(line, len(row)) for row, line in zip(rows, lines, strict=True) if len(row) != len(header)]
    if uneven:
        line, cells = uneven[0]
        more = f"; {format_count(len(uneven) - 1, 'other line')} of a wrong length" if len(uneven) > 1 else ""
        widths = f"{format_count(cells, 'cell')} for {format_count(len(header), 'column')}"
        raise OptionError("path", f"{file}: line {line} has {widths}{more}")
    if len(rows) == 1:
        raise OptionError("path", f"{file} has a first line but no rows")


def check_names(file: Path, header: Sequence[str]) -> None:
    """Check that columns have different names; only the first of several may have none."""
    named = header[1:] if len(header) > 1 and not header[0] else header
    if "" in named:
        column = header.index("", len(header) - len(named)) + 1
        raise OptionError("path", f"{file}: column {column} has no name in the first line; give it one")
    duplicates = [name for name, count in Counter(header).items() if count > 1]
    if duplicates:
        raise OptionError("path", f"{file} has more than one column named {join_truncated(duplicates)}; rename them")


def is_number(cell: Cell) -> bool:
    """Return whether a cell is a number in the range of float32. Python also reads 1_000 and non-ASCII digits."""
    if not cell or "_" in cell or not cell.isascii():
        return False
    try:
        return abs(float(cell)) < LARGEST
    except ValueError:
        return False


def parse_code(cell: Cell) -> float | None:
    """Return the number that a category is, None for text and codes with leading zeros."""
    return float(cell) if cell and is_number(cell) and not re.match(r"[-+]?0\d", cell) else None


def format_count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")

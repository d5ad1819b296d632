"""The cells of a table as text, by columns, and the numbers that they are.

A column is a list of cells or, if the file is large, `NumberCells`: a sequence of the same cells. The functions of this
module return the same for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dlopt.base.data import SourceRows

if TYPE_CHECKING:
    import polars

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "?"})
"""Cells that stand for a missing value, in lower case."""
LARGEST = float(np.finfo(np.float32).max)

Cell = str | None
"""The content of a row in a column; None if it is missing."""


class NumberCells(Sequence[Cell]):
    """The cells of a column of numbers, some of them missing, and their values, (N,) float64, NaN for missing ones."""

    def __init__(self, texts: polars.Series, values: np.ndarray) -> None:
        self._texts, self.values = texts, values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [*self][i]
        return None if math.isnan(self.values[i]) else self._texts[i]

    def __iter__(self) -> Iterator[Cell]:
        missing = np.isnan(self.values).tolist()
        return (None if hole else text for hole, text in zip(missing, self._texts.to_list(), strict=True))

    def __contains__(self, cell: object) -> bool:
        return bool(np.isnan(self.values).any()) if cell is None else super().__contains__(cell)

    def count(self, value: Any) -> int:
        return int(np.isnan(self.values).sum()) if value is None else super().count(value)

    def select(self, rows: np.ndarray) -> NumberCells:
        """Return the cells of these rows."""
        return NumberCells(self._texts.gather(rows), self.values[rows])


class TableCells(NamedTuple):
    """The cells of a table, a sequence for each column, and the line of the file in which each row begins.

    has_index is whether the file has a first column without a name, which is left out.
    """

    columns: dict[str, Sequence[Cell]]
    lines: Sequence[int]
    has_index: bool = False


class TableText(NamedTuple):
    """The text of a table: the names of the columns, the cells of each row, and the line in which each row begins.

    delimiter is the character between two cells.
    """

    header: list[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    delimiter: str

    @property
    def has_index(self) -> bool:
        """Return whether the first column has no name, as pandas writes the index of a table."""
        return len(self.header) > 1 and not self.header[0]

    def list_columns(self, names: Collection[str]) -> Iterable[Sequence[Cell]]:
        """Return the cells of the columns with these names, in the order of the header; missing values are None."""
        places = [i for i, name in enumerate(self.header) if name in names]
        return ([None if row[i].lower() in MISSING else row[i] for row in self.rows] for i in places)

    def to_cells(self, names: Collection[str] | None = None) -> TableCells:
        """Return the cells by columns, of all or of these names; missing values are None."""
        own = [name for name in self.header if name or not self.has_index]
        names = own if names is None else [name for name in own if name in names]
        return TableCells(dict(zip(names, self.list_columns({*names}), strict=True)), self.lines, self.has_index)

    def locate(self, lines: Sequence[int]) -> SourceRows:
        """Return the text of the rows, and which of them begin in these lines."""
        if len(lines) == len(self.lines):
            return SourceRows(self.header, self.rows, range(len(lines)), self.delimiter)
        row = {line: i for i, line in enumerate(self.lines)}
        return SourceRows(self.header, self.rows, [row[line] for line in lines], self.delimiter)


def is_number(cell: Cell) -> bool:
    """Return whether a cell is a number in the range of float32. Python also reads 1_000 and non-ASCII digits."""
    if not cell or "_" in cell or not cell.isascii():
        return False
    try:
        return abs(float(cell)) < LARGEST
    except ValueError:
        return False


def are_numbers(cells: Sequence[Cell]) -> bool:
    """Return whether all cells are numbers, and none is missing."""
    return None not in cells if isinstance(cells, NumberCells) else all(map(is_number, cells))


def hold_numbers(cells: Sequence[Cell]) -> bool:
    """Return whether all cells that are not missing are numbers."""
    return isinstance(cells, NumberCells) or all(cell is None or is_number(cell) for cell in cells)


def to_floats(cells: Sequence[Cell]) -> np.ndarray:
    """Return the values of numbers, (N,) float64, and NaN for missing ones."""
    if isinstance(cells, NumberCells):
        return cells.values.copy()
    return np.array([math.nan if cell is None else float(cell) for cell in cells])


def find_missing(cells: Sequence[Cell]) -> np.ndarray:
    """Return whether each cell is missing, (N,)."""
    if isinstance(cells, NumberCells):
        return np.isnan(cells.values)
    return np.array([cell is None for cell in cells])


def select_rows(cells: Sequence[Cell], rows: np.ndarray) -> Sequence[Cell]:
    """Return the cells of these rows."""
    return cells.select(rows) if isinstance(cells, NumberCells) else [cells[i] for i in rows.tolist()]


def parse_code(cell: Cell) -> float | None:
    """Return the number that a category is, None for text and codes with leading zeros."""
    return float(cell) if cell and is_number(cell) and not re.match(r"[-+]?0\d", cell) else None

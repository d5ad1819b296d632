"""What another table than that of training lacks, or has in addition: columns and categories."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dlopt.data._cells import Cell, TableCells
from dlopt.data._columns import Categories, Column
from dlopt.data._csv import format_count
from dlopt.errors import OptionError, join_truncated

MAX_OTHER = 10_000
"""Different cells without a category that are kept for a notice."""


def check_present(file: Path, columns: Mapping[str, Column], names: Sequence[str]) -> None:
    """Raise OptionError unless a table has all columns of a run; columns that may be renamed are suggested."""
    missing = [name for name in columns if name not in names]
    if not missing:
        return
    others = {name.casefold(): name for name in names if name not in columns}
    close = {name: difflib.get_close_matches(name.casefold(), others, n=1, cutoff=0.6) for name in missing}
    lacking = join_truncated(f"{name} (is it {others[c[0]]}?)" if (c := close[name]) else name for name in missing)
    raise OptionError("path", f"{file} lacks the columns {lacking}; the run was trained on {join_truncated(columns)}")


class OtherCategories:
    """Counts the cells that are none of the categories of training, in a table that is read in parts."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = {name: column for name, column in columns.items() if isinstance(column, Categories)}
        self._found = {name: _OtherCells() for name in self._columns}

    def add(self, table: TableCells) -> None:
        """Count the cells of a part of the table."""
        for name, column in self._columns.items():
            found, cells = self._found[name], table.columns[name]
            rows = np.flatnonzero(column.number(cells) < 0).tolist()
            if rows:
                found.line = found.line or table.lines[rows[0]]
                found.rows += len(rows)
                if len(found.cells) < MAX_OTHER:
                    found.cells |= dict.fromkeys(cells[row] for row in rows)

    def notices(self) -> list[str]:
        """Return a notice for each column with such cells."""
        notices = []
        for name, found in self._found.items():
            if not found.rows:
                continue
            cells = join_truncated("a missing value" if cell is None else repr(cell) for cell in found.cells)
            where = f"in {format_count(found.rows, 'row')}, the first in line {found.line}"
            known = join_truncated(text for text in self._columns[name].categories if text is not None)
            effect = f"training had {known}, so such a row counts as none of them (other)"
            notices.append(f"{name} has {cells} {where}; {effect}")
        return notices


@dataclass
class _OtherCells:
    """Cells that are none of the categories of a column: each once, the number of rows, and the first line."""

    cells: dict[Cell, None] = field(default_factory=dict)
    rows: int = 0
    line: int = 0

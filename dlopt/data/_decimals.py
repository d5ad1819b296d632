"""Numbers with decimal commas, as German spreadsheets write them: 1.234,5 for 1234.5."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from dlopt.data._cells import Cell, TableCells, is_number
from dlopt.errors import OptionError

Decimal = Literal["auto", "point", "comma"]
COMMA = re.compile(r"[-+]?((\d{1,3}(\.\d{3})+|\d+)(,\d+)?|,\d+)([eE][-+]?\d+)?", re.ASCII)
"""A number with a decimal comma, or a whole number; points may separate thousands."""
THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+", re.ASCII)
"""A number that could also be a whole number whose commas separate thousands."""
GROUPED = re.compile(r"[-+]?\d{1,3}(\.\d{3})+", re.ASCII)
"""A number that could also be a whole number whose points separate thousands."""


def convert_commas(table: TableCells, decimal: Decimal, delimiter: str) -> TableCells:
    """Return the table with decimal points in columns of numbers with decimal commas.

    auto converts them if commas do not separate the cells and a column has a comma that cannot separate thousands.
    Raise OptionError if other columns have decimal points.
    """
    is_typed = decimal == "comma"
    if not is_typed and (decimal != "auto" or delimiter == ","):
        return table
    matching = [name for name, cells in table.columns.items() if all(c is None or COMMA.fullmatch(c) for c in cells)]
    clear = next((name for name in matching if _find_comma(table.columns[name]) is not None), None)
    if clear is None and not is_typed:
        return table
    for name, cells in table.columns.items():
        if name not in matching and (row := _find_point(cells)) is not None:
            wrong = f"{name} has {cells[row]!r} in line {table.lines[row]}"
            other = "data.decimal=comma is set"
            if clear is not None:
                comma = _find_comma(table.columns[clear])
                assert comma is not None
                other = f"{clear} has {table.columns[clear][comma]!r} in line {table.lines[comma]}"
            raise OptionError("decimal", f"{wrong}, with a decimal point, but {other}; write all numbers in one way")
    columns = {
        name: [None if c is None else c.replace(".", "").replace(",", ".") for c in cells]
        if name in matching
        else cells
        for name, cells in table.columns.items()
    }
    return table._replace(columns=columns)


def _find_comma(cells: Sequence[Cell]) -> int | None:
    """Return the first row with a comma that cannot separate thousands."""
    return next((i for i, c in enumerate(cells) if c is not None and "," in c and not THOUSANDS.fullmatch(c)), None)


def _find_point(cells: Sequence[Cell]) -> int | None:
    """Return the first row with a point that cannot separate thousands, in a column of numbers with decimal points."""
    if not all(cell is None or is_number(cell) for cell in cells):
        return None
    return next((i for i, c in enumerate(cells) if c is not None and "." in c and not GROUPED.fullmatch(c)), None)

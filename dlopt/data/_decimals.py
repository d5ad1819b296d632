"""Numbers with decimal commas, as German spreadsheets write them: 1.234,5 for 1234.5."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
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


def find_comma_columns(tables: Iterable[TableCells]) -> frozenset[str]:
    """Return the columns of a file, read in parts, of numbers with decimal commas; none if no comma is clearly one."""
    matching: set[str] | None = None
    clear: set[str] = set()
    for table in tables:
        names = [name for name in table.columns if matching is None or name in matching]
        matching = {*_list_matching(table, names)}
        clear |= {name for name in matching - clear if _find_comma(table.columns[name]) is not None}
        if not matching:
            break
    return frozenset(matching or ()) if clear & (matching or set()) else frozenset()


def convert_commas(
    table: TableCells, decimal: Decimal, delimiter: str, known: Collection[str] | None = None
) -> TableCells:
    """Return the table with decimal points in columns of numbers with decimal commas.

    auto converts them if commas do not separate the cells and a column has a comma that cannot separate thousands.
    known: the columns of the whole file to convert, if the table is a part of it. Raise OptionError if other columns
    have decimal points.
    """
    is_typed = decimal == "comma" or bool(known)
    if not is_typed and (decimal != "auto" or delimiter == "," or known is not None):
        return table
    matching = _list_matching(table, table.columns) if known is None else [n for n in table.columns if n in known]
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


def _list_matching(table: TableCells, names: Iterable[str]) -> list[str]:
    """Return which of these columns hold numbers that are written with commas, or whole numbers."""
    return [name for name in names if all(c is None or COMMA.fullmatch(c) for c in table.columns[name])]


def _find_comma(cells: Sequence[Cell]) -> int | None:
    """Return the first row with a comma that cannot separate thousands."""
    return next((i for i, c in enumerate(cells) if c is not None and "," in c and not THOUSANDS.fullmatch(c)), None)


def _find_point(cells: Sequence[Cell]) -> int | None:
    """Return the first row with a point that cannot separate thousands, in a column of numbers with decimal points."""
    if not all(cell is None or is_number(cell) for cell in cells):
        return None
    return next((i for i, c in enumerate(cells) if c is not None and "." in c and not GROUPED.fullmatch(c)), None)

"""The columns of a table as inputs: numbers, categories and dates.

A column encodes cells as inputs, fits statistics of the training rows, and applies them. Its plain form, a number, list
or dictionary, is stored with the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from dlopt.data import _dates
from dlopt.data._cells import Cell, TableCells, hold_numbers, is_number, parse_code, to_floats
from dlopt.errors import OptionError, join_truncated

FEW, MANY = 20, 50
"""Up to FEW different texts are always categories; more than MANY are reported."""
ROWS_PER_CATEGORY = 10
"""Fewer rows per category are reported: the weights of a category learn only from its own rows."""

PlainColumn = float | list[Cell] | dict[str, Any]


class Column(Protocol):
    """A kind of column, with its statistics once it is fitted."""

    @property
    def width(self) -> int:
        """Return the number of inputs that the column becomes."""

    def to_plain(self) -> PlainColumn:
        """Return the column in numbers, text, lists and dictionaries."""

    def needs_fit(self, cells: Sequence[Cell]) -> bool:
        """Return whether inputs of these cells need statistics: some are missing, or float32 would round them."""

    def encode(self, name: str, table: TableCells, x: np.ndarray) -> None:
        """Write the inputs of cells into zeros, (N, width), NaN for missing numbers and dates.

        Raise OptionError for cells of another kind.
        """

    def fit(self, name: str, inputs: Tensor, rows: Any) -> Column:
        """Return the column with the statistics of these rows of its inputs, (N, width)."""

    def apply(self, inputs: Tensor) -> Tensor:
        """Return inputs, (N, width), with the statistics applied."""


def read_columns(plain: Mapping[str, PlainColumn]) -> dict[str, Column]:
    """Return columns by their names, given their plain forms."""

    def read(column: PlainColumn) -> Column:
        if isinstance(column, dict):
            return Dates(**column)
        return Numbers(column) if isinstance(column, float) else Categories(column)

    return {name: read(column) for name, column in plain.items()}


def have_format(columns: Mapping[str, Column], date_format: str) -> bool:
    """Return whether one of the columns holds dates of this format."""
    return any(isinstance(column, Dates) and column.date_format == date_format for column in columns.values())


def iter_inputs(columns: Mapping[str, Column]) -> Iterator[tuple[str, Column, slice]]:
    """Yield each column with its name and the place of its inputs."""
    begin = 0
    for name, column in columns.items():
        yield name, column, slice(begin, begin + column.width)
        begin += column.width


@dataclass(frozen=True)
class Numbers:
    """Numbers as one input. mean is that of the training rows, which fills missing ones."""

    mean: float = math.nan

    width: ClassVar[int] = 1

    def to_plain(self) -> PlainColumn:
        return self.mean

    def needs_fit(self, cells: Sequence[Cell]) -> bool:
        return None in cells

    def encode(self, name: str, table: TableCells, x: np.ndarray) -> None:
        x[:, 0] = read_numbers(name, table)

    def fit(self, name: str, inputs: Tensor, rows: Any) -> Numbers:
        return Numbers(_mean(name, inputs[:, 0], rows))

    def apply(self, inputs: Tensor) -> Tensor:
        return inputs.nan_to_num(self.mean)


@dataclass(frozen=True)
class Categories:
    """Categories, one-hot. None, the last, stands for missing text. Other cells have zeros in all inputs."""

    categories: list[Cell]

    @property
    def width(self) -> int:
        return len(self.categories)

    def to_plain(self) -> PlainColumn:
        return self.categories

    def needs_fit(self, cells: Sequence[Cell]) -> bool:
        return False

    def encode(self, name: str, table: TableCells, x: np.ndarray) -> None:
        codes = self.number(table.columns[name])
        known = np.flatnonzero(codes >= 0)
        x[known, codes[known]] = 1.0

    def number(self, cells: Sequence[Cell]) -> np.ndarray:
        """Return the places of cells among the categories, (N,), and -1 for cells that are none of them."""
        code = {category: i for i, category in enumerate(self.categories)}
        if all(category is None or is_number(category) for category in code):  # else 1.0 may name a version
            by_number = {number: i for category, i in code.items() if (number := parse_code(category)) is not None}
            others = {cell: parse_code(cell) for cell in set(cells) - code.keys()}
            code |= {cell: by_number[number] for cell, number in others.items() if number in by_number}
        return np.fromiter((code.get(cell, -1) for cell in cells), np.int64, len(cells))

    def fit(self, name: str, inputs: Tensor, rows: Any) -> Categories:
        return self

    def apply(self, inputs: Tensor) -> Tensor:
        return inputs


@dataclass(frozen=True)
class Dates:
    """Dates as the numbers of `encode_times`, the days less their mean in the training rows.

    means are those of the training rows, which fill missing dates. Time since 1970 itself would be rounded to minutes
    in float32.
    """

    date_format: str
    time_of_day: bool
    means: list[float] = field(default_factory=list)

    @property
    def width(self) -> int:
        return 7 if self.time_of_day else 5

    def to_plain(self) -> PlainColumn:
        return {"date_format": self.date_format, "time_of_day": self.time_of_day, "means": self.means}

    def needs_fit(self, cells: Sequence[Cell]) -> bool:
        return True

    def encode(self, name: str, table: TableCells, x: np.ndarray) -> None:
        times = _dates.read_times(name, table, self.date_format)
        x[:] = _dates.encode_times(times, time_of_day=self.time_of_day)

    def fit(self, name: str, inputs: Tensor, rows: Any) -> Dates:
        return replace(self, means=[_mean(name, x, rows) for x in inputs.T])

    def apply(self, inputs: Tensor) -> Tensor:
        filled = inputs.where(inputs.isfinite(), inputs.new_tensor(self.means))
        filled[:, 0] -= self.means[0]
        return filled


# ------------------------------------------------------------------------------------------- from cells


def detect_column(name: str, table: TableCells, kind: str | None, date_format: str) -> Column:
    """Return the column of these cells. Raise OptionError if its kind does not fit all of them.

    kind          categories, dates, or None: numbers or categories
    date_format   data.date_format
    """
    cells = table.columns[name]
    if cells.count(None) == len(cells):
        raise OptionError("missing", f"{name} has no value in any row; set data.drop=[{name}]")
    if kind == "dates":
        found = _dates.find_format(name, table, date_format)
        return Dates(found.text, found.time_of_day)
    if kind is None:
        if hold_numbers(cells):
            return Numbers()
        refuse_mixed(name, table, "categorical", f"or set data.categorical=[{name}] or data.drop=[{name}]")
    present = [cell for cell in cells if cell is not None]
    categories = _merge_equal_numbers(sorted(set(present)))
    if kind is None and len(categories) > max(FEW, len(present) / 2):
        dates = f"data.dates=[{name}], " if _dates.are_dates(categories) else ""
        count = f"{len(categories)} different texts in {len(present)} rows, and each would be an input"
        raise OptionError("drop", f"{name} has {count}; set {dates}data.drop=[{name}] or data.categorical=[{name}]")
    return Categories([*categories, *([None] if None in cells else [])])


def list_notices(columns: Mapping[str, Column], table: TableCells, categorical: Collection[str]) -> list[str]:
    """Return notices about columns that are probably not what they are encoded as: dates, texts and identifiers."""
    texts = {n: c.categories for n, c in columns.items() if isinstance(c, Categories) and n not in categorical}
    dates = [n for n, values in texts.items() if _dates.are_dates(value for value in values if value is not None)]
    rows = len(table.lines)
    many = [
        name
        for name, values in texts.items()
        if name not in dates and (len(values) > MANY or len(values) > max(FEW, rows / ROWS_PER_CATEGORY))
    ]
    numbers = [name for name, column in columns.items() if isinstance(column, Numbers)]
    counts = [name for name in numbers if len(columns) > 1 and rows > FEW and _is_identifier(table.columns[name])]

    def describe(names: Sequence[str], what: str) -> str:
        inputs = join_truncated(f"{name} ({len(texts[name])} inputs)" for name in names)
        return f"each {what} in {inputs} is an input of its own; set"

    def give(key: str, names: Sequence[str]) -> str:
        return f"data.{key}=[{','.join(names)}]"

    notices = []
    if dates:
        remedies = f"{give('dates', dates)} to use them as numbers, {give('drop', dates)}"
        notices.append(f"{describe(dates, 'date')} {remedies}, or {give('categorical', dates)} to keep them")
    if many:
        remedies = f"{give('drop', many)}, or {give('categorical', many)} to keep them"
        notices.append(f"{describe(many, 'text')} {remedies}")
    if counts:
        growing = f"whole numbers grow from row to row in {join_truncated(counts)}"
        notices.append(f"{growing}, as identifiers do; set {give('drop', counts)}")
    return notices


def _is_identifier(cells: Sequence[Cell]) -> bool:
    """Return whether cells are whole numbers that increase from row to row."""
    x = to_floats(cells)
    return bool((x[:-1] < x[1:]).all() and (x == np.floor(x)).all())


def _merge_equal_numbers(categories: list[str]) -> list[str]:
    """Return the categories, only the first of those that are one number if all are numbers."""
    if not all(map(is_number, categories)):
        return categories
    unique: dict[float | str, str] = {}
    for category in categories:
        number = parse_code(category)
        unique.setdefault(category if number is None else number, category)
    return list(unique.values())


def _mean(name: str, x: Tensor, rows: Any) -> float:
    """Return the mean of inputs, (N,), in these rows."""
    known = x[rows].double()
    if not x.isnan().any():
        return known.mean().item()
    values = known[~known.isnan()].tolist()
    if not values:
        raise OptionError("missing", f"{name} has no value in the training rows of this run; set data.drop=[{name}]")
    return math.fsum(values) / len(values)


def read_numbers(name: str, table: TableCells) -> np.ndarray:
    """Return the numbers of a column, (N,) float64, and NaN for the missing ones."""
    cells = table.columns[name]
    if not hold_numbers(cells):
        text = next(i for i, cell in enumerate(cells) if cell is not None and not is_number(cell))
        raise OptionError(
            "path", f"{name} was numeric in training, but has {cells[text]!r} in line {table.lines[text]}"
        )
    return to_floats(cells)


def check_rounding(name: str, table: TableCells) -> None:
    """Refuse a column of numbers of which float32 would make half or more equal."""
    x = to_floats(table.columns[name])
    known = np.sort(x[~np.isnan(x)])
    hole = int(len(known) < len(x))  # counts as one number
    different, in_float32 = (
        np.count_nonzero(np.diff(values)) + 1 + hole for values in (known, known.astype(np.float32))
    )
    if different > 1 and 2 * in_float32 <= different:
        count = f"{different} different numbers, {in_float32} in float32"
        raise OptionError("drop", f"{name} has {count}; subtract the smallest one first")


def refuse_mixed(name: str, table: TableCells, key: str, remedy: str) -> None:
    """Refuse text in a column in which half or more are numbers, and numbers written with commas."""
    cells = table.columns[name]
    if hold_numbers(cells):
        return
    words = {cell for cell in set(cells) if cell is not None and not is_number(cell)}
    texts = [i for i, cell in enumerate(cells) if cell in words]
    present = len(cells) - cells.count(None)
    first = f"{cells[texts[0]]!r} in line {table.lines[texts[0]]}"
    if all(re.fullmatch(r"[-+]?[\d.]*(,\d+)+", cells[i] or "") for i in texts):
        remedy = "set data.decimal=comma for 1,5, or write 1500 for 1,500"
        raise OptionError(key, f"{name} has numbers written with a comma, the first {first}; {remedy}")
    if 2 * len(texts) <= present:
        more = f", and {len(texts) - 1} more" if len(texts) > 1 else ""
        raise OptionError(key, f"{name} has numbers, but also text: {first}{more}; correct the table, {remedy}")

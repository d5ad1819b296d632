"""Columns of your own data that say which examples a split keeps together: groups, and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlopt.data import _columns, _dates
from dlopt.data._cells import Cell, TableCells, are_numbers, is_number, parse_code
from dlopt.errors import OptionError


class UnknownTime(ValueError):
    """A value is not a time; `row` is where, and the message says why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


def select_keys(group: str | None, time: str | None) -> dict[str, str]:
    """Return the names that are given, by their keys. Raise OptionError if both are."""
    if group is not None and time is not None:
        raise OptionError("time", "cannot be used with data.group: a group has several times; leave one of them out")
    return {key: name for key, name in (("group", group), ("time", time)) if name is not None}


def number_groups(cells: Sequence[Cell]) -> Tensor:
    """Return the number of the group of each row of a table, (N,) int64. 1 and 1.0 are one group if all are numbers."""
    are_codes = are_numbers(cells)
    number: dict[Cell | float, int] = {}
    groups = []
    for cell in cells:
        code = parse_code(cell) if are_codes else None
        groups.append(number.setdefault(cell if code is None else code, len(number)))
    return torch.tensor(groups)


def number_times(name: str, table: TableCells, date_format: str) -> Tensor:
    """Return the place of each row of a table among the different times in a column, (N,) int64."""
    cells = [cell or "" for cell in table.columns[name]]
    if all(map(is_number, cells)):
        return _rank_times(cells)
    _columns.refuse_mixed(name, table, "time", "or name another column")
    try:
        found = _dates.find_format(name, table, date_format)
    except OptionError as error:
        raise OptionError("time" if error.key == "dates" else error.key, str(error)) from error
    return _rank(_dates.read_times(name, table, found.text))


def _rank_times(texts: Sequence[str]) -> Tensor:
    """Return the place of each time among the different times, given numbers or ISO dates. Raise UnknownTime."""
    times: list[Any] = [_parse_time(text, row) for row, text in enumerate(texts)]
    try:
        place = {time: i for i, time in enumerate(sorted(set(times)))}
    except TypeError:
        row, reason = _find_other_kind(times)
        raise UnknownTime(row, reason) from None
    return torch.tensor([place[time] for time in times])


def _parse_time(text: str, row: int) -> Decimal | datetime:
    try:
        number = Decimal(text)  # exact, as times in nanoseconds need more digits than a float has
        if number.is_finite():
            return number
    except InvalidOperation:
        pass
    try:
        return datetime.fromisoformat(f"{text}-01" if re.fullmatch(r"\d{4}-\d\d", text) else text)
    except ValueError:
        raise UnknownTime(row, "is neither a number nor a date such as 2024-01-31 or 2024-01-31T12:00") from None


def _find_other_kind(times: Sequence[Any]) -> tuple[int, str]:
    """Return the first row whose time cannot be compared with the first, and how they differ."""
    kinds = [(type(time), getattr(time, "tzinfo", None) is None) for time in times]
    row = next(row for row, kind in enumerate(kinds) if kind != kinds[0])
    zones = "one has a time zone and the other has none"
    return row, f"cannot be compared with {times[0]}: " + (
        zones if kinds[row][0] is kinds[0][0] else "one is a number and the other a date"
    )


def number_array(array: np.ndarray, name: str, key: str, count: int) -> Tensor:
    """Return the groups (key `group`) or the times (key `time`) in an array of `count` entries, (N,) int64."""
    if array.shape != (count,):
        raise OptionError(key, f"{name} has shape {array.shape}; it must be ({count},), one for each input")
    if array.dtype.kind not in ("biufUSM" if key == "time" else "biufUS"):
        raise OptionError(key, f"{name} must hold numbers or text{', or dates' * (key == 'time')}, got {array.dtype}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    missing = array == "" if array.dtype.kind == "U" else ~np.isfinite(array)
    if missing.any():
        row = int(missing.argmax())
        raise OptionError(key, f"{name} has {array[row]!s:.9} in row {row} (from 0); every example needs a value")
    if key == "time" and array.dtype.kind == "U":
        try:
            return _rank_times(array.tolist())
        except UnknownTime as error:
            where = f"{name} has {array[error.row].item()!r} in row {error.row} (from 0)"
            raise OptionError(key, f"{where}, which {error}") from error
    return _rank(array)


def _rank(array: np.ndarray) -> Tensor:
    """Return the place of each value among the different values, (N,) int64."""
    return torch.from_numpy(np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64))

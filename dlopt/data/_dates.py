"""Dates in the cells of a table: their formats, and the numbers that they become."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time
from typing import NamedTuple

import numpy as np

from dlopt.data._cells import TableCells
from dlopt.errors import OptionError

ISO = "ISO 8601"
DAYS = (
    "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y-%m",
    "%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
FORMATS = (ISO, *(day + time_of_day for time_of_day in TIMES for day in DAYS))
"""The formats that auto knows."""
SAMPLE = 1_000
"""Number of different texts of a column that are read to tell whether it holds dates."""


class DateFormat(NamedTuple):
    """The format of a column of dates, and whether any of them is not at midnight."""

    text: str
    time_of_day: bool


def check_format(date_format: str) -> None:
    """Raise OptionError if a format cannot be read."""
    try:
        datetime.strptime(datetime(2001, 2, 3, tzinfo=UTC).strftime(date_format), date_format)
    except (ValueError, re.error) as error:
        wrong = f"must be auto, or a format of Python's strptime such as %d/%m/%Y, got {date_format!r}"
        raise OptionError("date_format", wrong) from error


def are_dates(texts: Iterable[str]) -> bool:
    """Return whether texts are dates in a known format, by the first of them."""
    first = list(itertools.islice(texts, SAMPLE))
    if not all(re.search(r"\d{4}", text) for text in first):  # a year
        return False
    return any(_read_all(first, date_format) is not None for date_format in FORMATS)


def find_format(name: str, table: TableCells, option: str) -> DateFormat:
    """Return the format of a column of dates.

    It is data.date_format, the option, if all cells have it, and otherwise the only known format that all of them have.
    Raise OptionError for a cell that is not a date, and for dates whose day could be the month.
    """
    texts = [cell for cell in dict.fromkeys(table.columns[name]) if cell is not None]
    typed = [] if option == "auto" else [option]
    for date_format in [*typed, ISO]:
        times = _read_all(texts, date_format)
        if times is not None:
            return DateFormat(date_format, _have_time_of_day(times))
    is_other = not any(_read(text, form) for form in typed for text in texts)  # else a cell is wrong, not the format
    forms_left = FORMATS if is_other else ()
    fitting = {form: times for form in forms_left if (times := _read_all(texts, form)) is not None}
    if not fitting:
        expected = max(typed or FORMATS, key=lambda form: _find_unreadable(texts, form))
        wrong = _find_unreadable(texts, expected)
        form = f"as {expected}" if wrong or typed else "in a known format"
        remedy = "correct the table, or set data.date_format, such as %d/%m/%Y"
        raise OptionError(
            "dates", f"{name} has {_locate(texts[wrong], name, table)}, which is not a date {form}; {remedy}"
        )
    forms = list(fitting)
    if any(times != fitting[forms[0]] for times in fitting.values()):
        remedy = " or ".join(f"data.date_format={_quote(form)}" for form in forms)
        wrong_order = "and each could begin with its day or its month"
        where = f"{name} has dates such as {_locate(texts[0], name, table)}"
        raise OptionError("date_format", f"{where}, {wrong_order}; set {remedy}")
    return DateFormat(forms[0], _have_time_of_day(fitting[forms[0]]))


def read_times(name: str, table: TableCells, date_format: str) -> np.ndarray:
    """Return the times of a column in UTC, (N,) datetime64, NaT for missing ones.

    Raise OptionError for a cell of another format.
    """
    cells = table.columns[name]
    times = {cell: None if cell is None else _read(cell, date_format) for cell in dict.fromkeys(cells)}
    wrong = next((cell for cell in cells if cell is not None and times[cell] is None), None)
    if wrong is not None:
        where = _locate(wrong, name, table)
        raise OptionError("path", f"{name} was a date as {date_format} in training, but has {where}")
    place = {cell: i for i, cell in enumerate(times)}
    return np.array([*times.values()], "datetime64[us]")[np.fromiter(map(place.__getitem__, cells), np.int64)]


def encode_times(times: np.ndarray, *, time_of_day: bool) -> np.ndarray:
    """Return the numbers of times, (N, 5) or with the time of day (N, 7), in float64; NaN for missing ones.

    They are the days since 1970-01-01 UTC, and sine and cosine of 2 pi times the elapsed fractions of the year, of the
    week from Monday on, and of the day.
    """
    years = times.astype("datetime64[Y]")
    begin, end = (year.astype("datetime64[us]") for year in (years, years + 1))
    days = (times - np.datetime64(0, "us")) / np.timedelta64(1, "D")
    fractions = [(times - begin) / (end - begin), (days + 3) / 7 % 1]  # 1970-01-01 was a Thursday
    fractions += [days % 1] if time_of_day else []
    return np.column_stack([days, *(wave(2 * np.pi * x) for x in fractions for wave in (np.sin, np.cos))])


def _read(text: str, date_format: str) -> datetime | None:
    """Return the time of a text in UTC, without a zone, or None if it has another format."""
    try:
        moment = datetime.fromisoformat(text) if date_format == ISO else datetime.strptime(text, date_format)
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _read_all(texts: Iterable[str], date_format: str) -> list[datetime] | None:
    """Return the times of texts, None if one of them has another format."""
    times = []
    for text in texts:
        moment = _read(text, date_format)
        if moment is None:
            return None
        times.append(moment)
    return times


def _have_time_of_day(times: Iterable[datetime]) -> bool:
    return any(moment.time() != time() for moment in times)


def _find_unreadable(texts: Sequence[str], date_format: str) -> int:
    """Return the index of the first text of another format."""
    return next((i for i, text in enumerate(texts) if _read(text, date_format) is None), len(texts))


def _locate(text: str, name: str, table: TableCells) -> str:
    """Return a cell's text and the first line where a column has it."""
    return f"{text!r} in line {table.lines[table.columns[name].index(text)]}"


def _quote(date_format: str) -> str:
    return f"'{date_format}'" if " " in date_format else date_format

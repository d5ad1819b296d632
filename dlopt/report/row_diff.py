"""Compare the rows of two runs of one configuration number by number."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlopt.report.text_table import format_table
from dlopt.rundir.directory import Row
from dlopt.storage.safe_read import to_printable


@dataclass(frozen=True)
class Difference:
    """The differences of one metric.

    first      first step at which it differs
    count      number of rows in which it differs
    absolute   largest |now - then|, at step at_absolute; None if no pair of values is finite
    relative   largest |now - then| / max(|then|, |now|), between 0 and 2, at step at_relative; None likewise
    """

    metric: str
    first: int
    count: int
    absolute: float | None
    at_absolute: int | None
    relative: float | None
    at_relative: int | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs.

    rows          number of steps with a row in both runs
    differences   one for each metric that differs, ordered by the first step
    only_then     steps within the range covered by both runs that only the former run has
    only_now      steps within that range that only the latter run has
    """

    rows: int
    differences: tuple[Difference, ...]
    only_then: tuple[int, ...]
    only_now: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        """Return whether there are rows to compare, and all numbers in them are equal, bit for bit."""
        return self.rows > 0 and not (self.differences or self.only_then or self.only_now)

    @property
    def first(self) -> tuple[int, str] | None:
        """Return the step and the metric that differ first, or None."""
        return (self.differences[0].first, self.differences[0].metric) if self.differences else None

    def text(self, width: int) -> str:
        """Return a line if all is equal, else a table of the differences with the columns that fit the width."""
        if not self.rows:
            lines = ["there is no step for which both runs have a row"]
        elif self.differences:
            d = self.differences[0]
            lines = [f"{_rows(self.rows)} compared; {to_printable(d.metric)} is the first to differ, at step {d.first}"]
        else:
            lines = [f"{_rows(self.rows)} compared; every number is equal, bit for bit"]
        for steps, which in ((self.only_then, "then"), (self.only_now, "now")):
            if steps:
                lines.append(f"{_rows(len(steps))} only {which}, the first at step {steps[0]}")
        lines = [part for line in lines for part in textwrap.wrap(line, width)]
        if self.differences:
            table = [["metric", "from step", "rows", "absolute", "at", "relative", "at"]]
            for d in self.differences:
                cells = [d.first, d.count, d.absolute, d.at_absolute, d.relative, d.at_relative]
                table.append([to_printable(d.metric), *map(_format_cell, cells)])
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            shown = [i for i in range(len(widths)) if i == 0 or sum(widths[: i + 1]) + 2 * i <= width]
            header, *rows = [[row[i] for i in shown] for row in table]
            lines += ["", *format_table(header, rows, [i > 0 for i in shown])]
        return "\n".join(lines)


def compare(then: Sequence[Row], now: Sequence[Row]) -> Comparison:
    """Compare the rows of two runs by step, in all keys except the clock's: seconds and time/*.

    Values must be equal bit for bit. NaN equals NaN, and null equals a missing value. Of several rows of one step the
    last counts, which a resumed run wrote.
    """
    former, latter = ({row["step"]: row for row in rows} for rows in (then, now))
    both = sorted(former.keys() & latter.keys())
    pairs: dict[str, list[tuple[int, Any, Any]]] = {}
    for step in both:
        a, b = former[step], latter[step]
        for key in dict.fromkeys((*a, *b)):
            is_clock = key == "seconds" or key.startswith("time/")
            if not is_clock and not is_identical(a.get(key), b.get(key)):
                pairs.setdefault(key, []).append((step, a.get(key), b.get(key)))
    differences = sorted((_measure_difference(*pair) for pair in pairs.items()), key=lambda d: d.first)
    only_then, only_now = _find_missing(former, latter), _find_missing(latter, former)
    return Comparison(len(both), tuple(differences), only_then, only_now)


def is_identical(a: Any, b: Any) -> bool:
    """Return whether two values are equal bit for bit: 0.0 differs from -0.0, and NaN equals NaN."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


def _find_missing(one: dict[int, Row], other: dict[int, Row]) -> tuple[int, ...]:
    """Return the steps that only the first run has, within the range that both cover."""
    if not (one and other):
        return ()
    begin, end = max(min(one), min(other)), min(max(one), max(other))
    return tuple(sorted(step for step in one.keys() - other.keys() if begin <= step <= end))


def _measure_difference(metric: str, pairs: Sequence[tuple[int, Any, Any]]) -> Difference:
    finite = [(step, a, b) for step, a, b in pairs if _is_finite(a) and _is_finite(b)]
    sizes: list[Any] = []
    for measure in (lambda a, b: float(abs(b - a)), _relative):
        step, size = max(((step, measure(a, b)) for step, a, b in finite), key=lambda x: x[1], default=(None, None))
        sizes += [size, step]
    return Difference(metric, pairs[0][0], len(pairs), *sizes)


def _relative(a: float, b: float) -> float:
    scale = max(abs(a), abs(b))
    return abs(b / scale - a / scale) if scale else 0.0  # b - a may overflow


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _format_cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)

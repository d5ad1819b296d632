"""The rows of two runs of one configuration, number by number: whether they are equal, and where they part."""

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
    """How far one metric is apart.

    first      the first step at which it differs
    count      the number of rows in which it differs
    absolute   the largest |now - then|, and at_absolute its step; None where none can be told: a value that only one
               run has, or that is no finite number
    relative   the largest |now - then| / max(|then|, |now|), between 0 and 2, and at_relative its step; None likewise
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
    """What became of the same steps in two runs.

    rows          how many steps both have a row of
    differences   one for each metric that differs, the one that differs first before the others
    only_then     steps between the first and the last that both cover, of which only the former run has a row
    only_now      the same of the latter
    """

    rows: int
    differences: tuple[Difference, ...]
    only_then: tuple[int, ...]
    only_now: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        """Whether there are rows to compare, and every number of theirs is the same, bit for bit."""
        return self.rows > 0 and not (self.differences or self.only_then or self.only_now)

    @property
    def first(self) -> tuple[int, str] | None:
        """The step and the metric that differ first; None where none does."""
        return (self.differences[0].first, self.differences[0].metric) if self.differences else None

    def text(self, width: int) -> str:
        """A line where all is equal, else a table of what differs, with the columns that fit so many characters."""
        if not self.rows:
            lines = ["there is no step of which both runs have a row"]
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
            header = ["metric", "from step", "rows", "absolute", "at", "relative", "at"]
            cells = [
                [to_printable(d.metric), str(d.first), str(d.count), _size(d.absolute), _step(d.at_absolute),
                 _size(d.relative), _step(d.at_relative)]
                for d in self.differences
            ]  # fmt: skip
            shown = _choose_columns(header, cells, width)
            right = [False] + [True] * (len(shown) - 1)
            table = format_table([header[i] for i in shown], [[row[i] for i in shown] for row in cells], right)
            lines += ["", *table]
        return "\n".join(lines)


def compare(then: Sequence[Row], now: Sequence[Row]) -> Comparison:
    """Rows of two runs, by their steps; every key but the clock's: seconds and time/*.

    Equal is equal bit for bit; NaN equals NaN, and what both lack, or have as null, is equal too. Of several rows of
    one step the last counts, which is the one that a run wrote when it went on.
    """
    former, latter = ({row["step"]: row for row in rows} for rows in (then, now))
    both = sorted(former.keys() & latter.keys())
    apart: dict[str, list[tuple[int, Any, Any]]] = {}
    for step in both:
        a, b = former[step], latter[step]
        for key in dict.fromkeys((*a, *b)):
            if not _is_clock(key) and not is_identical(a.get(key), b.get(key)):
                apart.setdefault(key, []).append((step, a.get(key), b.get(key)))
    differences = tuple(sorted((_difference(*found) for found in apart.items()), key=lambda d: d.first))
    alone = [_within(one, other) for one, other in ((former, latter), (latter, former))]
    return Comparison(len(both), differences, *alone)


def is_identical(a: Any, b: Any) -> bool:
    """Whether two values are one, bit for bit: 0.0 is not -0.0, and NaN is NaN."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


def _is_clock(key: str) -> bool:
    return key == "seconds" or key.startswith("time/")


def _within(one: dict[int, Row], other: dict[int, Row]) -> tuple[int, ...]:
    """Steps of one alone, from where both have begun to where the first of them ends."""
    if not (one and other):
        return ()
    begin, end = max(min(one), min(other)), min(max(one), max(other))
    return tuple(sorted(step for step in one.keys() - other.keys() if begin <= step <= end))


def _difference(metric: str, found: Sequence[tuple[int, Any, Any]]) -> Difference:
    known = [(step, a, b) for step, a, b in found if _is_finite(a) and _is_finite(b)]
    absolute, at_absolute = _largest([(step, abs(b - a)) for step, a, b in known])
    relative, at_relative = _largest([(step, _relative(a, b)) for step, a, b in known])
    return Difference(metric, found[0][0], len(found), absolute, at_absolute, relative, at_relative)


def _largest(sizes: Sequence[tuple[int, float]]) -> tuple[float | None, int | None]:
    """The largest size and the first step at which it is so large."""
    step, size = max(sizes, key=lambda at: at[1], default=(None, None))
    return size, step


def _relative(a: float, b: float) -> float:
    scale = max(abs(a), abs(b))
    return abs(b / scale - a / scale) if scale else 0.0  # divided first: their difference may be too large for a float


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _step(value: int | None) -> str:
    return "-" if value is None else str(value)


def _choose_columns(header: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """The columns that fit, the first ones before the others, and the metric in any case."""
    shown, used = [0], max(len(row[0]) for row in (header, *cells))
    for i in range(1, len(header)):
        used += 2 + max(len(row[i]) for row in (header, *cells))
        if used > width:
            break
        shown.append(i)
    return shown

"""Searched hyperparameters: their values and scales."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dlopt.formatting import format_override

MAX_NUMBER = 1e100
"""Upper bound of the size of a number: sums of squares of larger ones would overflow."""
MIN_LOG_RATIO = 10.0
"""Ratio above which two numbers are taken for points of a logarithmic scale."""
MAX_UNBINNED = 12
"""Largest number of values that are shown one by one; more are binned."""
Value = str | float
"""Value of a hyperparameter: a number if its axis is numeric, else text as it is typed."""


@dataclass(frozen=True)
class SearchAxis:
    """A hyperparameter that is searched.

    values   values of a choice or a grid, in order; empty for an interval
    low, high   smallest and largest number; None if the values are text
    log      whether its scale is logarithmic
    whole    whether it takes only whole numbers
    step     distance between the numbers of an interval; None if it is continuous
    """

    key: str
    values: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    step: float | None = None

    @property
    def is_numeric(self) -> bool:
        return self.low is not None

    @property
    def is_interval(self) -> bool:
        return not self.values

    @property
    def is_binned(self) -> bool:
        """Return whether it has too many numbers to show each of them."""
        if not self.is_interval:
            return self.is_numeric and len(self.values) > MAX_UNBINNED
        assert self.low is not None and self.high is not None
        return not self.whole or (self.high - self.low) / (self.step or 1.0) >= MAX_UNBINNED

    def to_scale(self, value: float) -> float:
        """Map a number to the scale of the axis: log10(value) or the value itself."""
        return math.log10(value) if self.log else value

    def share(self, value: float) -> float:
        """Return the position of a number on the scale of the axis: 0 at `low`, 1 at `high`."""
        assert self.low is not None and self.high is not None
        low, high = self.to_scale(self.low), self.to_scale(self.high)
        return (self.to_scale(value) - low) / (high - low) if high > low else 0.0

    def value(self, settings: Mapping[str, Any]) -> Value | None:
        """Return the value of a run with these settings, or None if it has none on this axis."""
        if self.key not in settings:
            return None
        if not self.is_numeric:
            return canonicalize(settings[self.key])
        number = parse_number(settings[self.key])
        return None if number is None or (self.log and number <= 0) else number

    def format_value(self, value: Value) -> str:
        """Format a value as it is typed; numbers of an interval get four digits."""
        if isinstance(value, str):
            return value
        return f"{value:.4g}" if self.is_interval and not self.whole else f"{value:.10g}"

    def describe_range(self) -> str:
        """Describe the range in a few words."""
        if self.is_interval:
            return f"{self.low:g}..{self.high:g}{' (log)' if self.log else ''}"
        texts = [self.format_value(v) for v in self.values]
        return ", ".join(texts if len(texts) <= 8 else [*texts[:3], "...", *texts[-2:]])


def make_choice_axis(key: str, values: Sequence[str]) -> SearchAxis:
    """Return the axis of a grid over these values. It is numeric and sorted if all of them are numbers.

    Its scale is logarithmic if the numbers are positive and spaced more evenly on that scale.
    """
    names = tuple(dict.fromkeys(values))
    numbers = sorted({x for name in names if (x := parse_number(name)) is not None})
    if any(parse_number(name) is None for name in names):
        return SearchAxis(key, names)
    whole = all(x.is_integer() for x in numbers)
    return SearchAxis(key, tuple(numbers), numbers[0], numbers[-1], _is_logarithmic(numbers), whole)


def _is_logarithmic(values: Sequence[float]) -> bool:
    if values[0] <= 0 or len(values) < 2:
        return False
    if len(values) == 2:
        return values[1] / values[0] >= MIN_LOG_RATIO

    def uneven(x: Sequence[float]) -> float:
        gaps = [b - a for a, b in pairwise(x)]
        return statistics.pstdev(gaps) / statistics.fmean(gaps)

    return uneven([math.log(x) for x in values]) < uneven(values)


def canonicalize(value: Any) -> str:
    """Format a value in one canonical way: 1e-1 and 0.10 become 0.1, lists have no spaces."""
    text = format_override(value)
    if isinstance(value, bool) or (number := parse_number(text)) is None:
        return text.replace(" ", "") if text.startswith("[") else text
    return f"{number:.12g}"


def parse_number(value: Any) -> float | None:
    """Return the number that a value or text stands for, or None if there is none below 1e100 in size."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < MAX_NUMBER else None

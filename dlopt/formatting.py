"""Text of values, metrics and durations."""

import re
from typing import Any

MAX_NAME_BYTES = 200
"""Largest length of a file name made from a text; file systems allow 255."""


def format_override(value: Any) -> str:
    """Return a value as it is written after `key=` on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "[" + ",".join(map(format_override, value)) + "]" if isinstance(value, list) else str(value)


def split_outside_brackets(text: str) -> list[str]:
    """Split a text at its commas, except those inside brackets: `none,[l1,l2]` is `none` and `[l1,l2]`."""
    parts, depth = [""], 0
    for character in text:  # not by a regular expression: one that looks ahead takes quadratic time
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def split_names(text: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name for name in text.split(",") if name]


def to_file_name(text: str) -> str:
    """Return a text as the name of a file: letters, digits and . , = + - _ [ ]; it does not begin with a dot."""
    name = re.sub(r"[^\w.,=+\[\]-]+", "_", text).lstrip(".")
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def get_first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def metric_label(metric: str) -> str:
    """Return the title of a metric in a figure."""
    return {"r2": "R²", "auc": "AUC", "top5": "top-5 accuracy"}.get(metric, metric)


def format_metric(value: Any) -> str:
    """Return a metric with four decimals, or with three significant digits if it is small or large; - for None."""
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def format_count(count: int, what: str) -> str:
    """Return a number of things: 1 run, 2,000 runs."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def format_rate(rate: float) -> str:
    """Return a number per second, with two digits if it is small: 0.32, 12, 1,234."""
    return f"{rate:,.0f}" if rate >= 9.95 or rate == 0 else f"{rate:.2g}"


def format_duration(seconds: float | None) -> str:
    """Return a duration as 12.3 s, 4:05 or 2:03:04; - for None."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

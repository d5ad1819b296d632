"""What the names of metrics say: which way is better, which of them are shown first, how a value is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

HEADLINE = tuple(
    f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "accuracy", "r2", "auc", "top5")
)
"""The few that fit a line, in the order in which they stand there."""
AVERAGED = tuple(f"average/{name}" for name in HEADLINE)
"""The same at averaged weights, where there are any."""
Statistic = Literal["mean", "median"]
"""What a metric of several runs is made into."""


def higher_is_better(metric: str) -> bool:
    """The direction in which a metric improves; losses and errors fall."""
    return metric.rpartition("/")[2] in ("accuracy", "r2", "auc", "top5")


def headline(names: Iterable[str]) -> list[str]:
    """The metrics of these that fit a line."""
    known = set(names)
    return [name for name in HEADLINE if name in known]


def title(metric: str) -> str:
    """A metric's name above a picture."""
    return {"r2": "R²", "auc": "AUC", "top5": "top-5 accuracy"}.get(metric, metric)


def number(value: Any) -> str:
    """A metric with four decimals, or three digits where those would say nothing; - where there is none."""
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """12.3 s, 4:05 or 2:03:04."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

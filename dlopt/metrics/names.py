"""Names of metrics: the direction of improvement and the headline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

HEADLINE = tuple(
    f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "accuracy", "r2", "auc", "top5")
)
"""Metrics that are shown in one line, in this order."""
AVERAGE_HEADLINE = tuple(f"average/{name}" for name in HEADLINE)
"""The same metrics at averaged weights."""
Statistic = Literal["mean", "median"]
"""Statistics of a metric over several runs."""


def higher_is_better(metric: str) -> bool:
    """Return whether larger values of a metric are better; losses and errors improve by falling."""
    return metric.rpartition("/")[2] in ("accuracy", "r2", "auc", "top5")


def select_headline(names: Iterable[str]) -> list[str]:
    """Return the headline metrics among these names."""
    available = set(names)
    return [name for name in HEADLINE if name in available]

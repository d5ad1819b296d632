"""What the names of metrics say: which way is better, which of them are shown first, how a value is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

HEADLINE = tuple(
    f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "accuracy", "r2", "auc", "top5")
)
"""The few that fit a line, in the order in which they stand there."""


AVERAGE_HEADLINE = tuple(f"average/{name}" for name in HEADLINE)
"""The same at averaged weights, where there are any."""


Statistic = Literal["mean", "median"]
"""What a metric of several runs is made into."""


def higher_is_better(metric: str) -> bool:
    """The direction in which a metric improves; losses and errors fall."""
    return metric.rpartition("/")[2] in ("accuracy", "r2", "auc", "top5")


def select_headline(names: Iterable[str]) -> list[str]:
    """The metrics of these that fit a line."""
    known = set(names)
    return [name for name in HEADLINE if name in known]

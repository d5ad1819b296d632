"""What runs that repeat one point, over seeds or folds, come to together.

A run that diverged is the worst there can be. So a median stands as long as fewer than half of the runs do, and a mean
with one of them is not finite.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dlopt.metrics.names import Statistic, higher_is_better


def aggregate_values(values: Sequence[float], statistic: Statistic) -> float:
    """The mean or median."""
    return statistics.fmean(values) if statistic == "mean" else statistics.median(values)


def collect_objectives(endings: Sequence[tuple[str, Mapping[str, Any]]], objective: str) -> tuple[float, ...]:
    """The objective of each run that is over: the worst there can be of one that diverged."""
    worst = -math.inf if higher_is_better(objective) else math.inf
    return tuple(worst if status == "diverged" else _value(summary, objective, worst) for status, summary in endings)


def _value(summary: Mapping[str, Any], objective: str, worst: float) -> float:
    """The objective of a run; for a loss train/loss where it had no validation split."""
    found = summary.get(objective, None if higher_is_better(objective) else summary.get("train/loss"))
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else worst

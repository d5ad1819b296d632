"""One value for several runs that repeat one configuration, over seeds or folds.

A run that diverged has the worst possible value. A median is finite if fewer than half of the runs diverged; a mean is
finite only if none did.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dlopt.metrics.names import AVERAGE, Statistic


def aggregate_values(values: Sequence[float], statistic: Statistic) -> float:
    """Return the mean or the median."""
    return statistics.fmean(values) if statistic == "mean" else statistics.median(values)


def collect_objectives(
    endings: Sequence[tuple[str, Mapping[str, Any]]], objective: str, *, higher_is_better: bool
) -> tuple[float, ...]:
    """Return the objective of each run from its status and summary; the worst possible value if it diverged.

    A loss is read from train/loss if the run has no validation split.
    """
    worst = -math.inf if higher_is_better else math.inf
    values = []
    for status, summary in endings:
        has_substitute = not higher_is_better and not objective.startswith(AVERAGE)
        value = summary.get(objective, summary.get("train/loss") if has_substitute else None)
        is_finite = status != "diverged" and isinstance(value, (int, float)) and math.isfinite(value)
        values.append(float(value) if is_finite else worst)
    return tuple(values)

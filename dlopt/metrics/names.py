"""Names of metrics: the direction of improvement and the headline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

_NAMES = (
    "loss", "accuracy", "r2", "auc", "top5", "f1", "precision", "recall", "average_precision", "balanced_accuracy",
    "calibration_error", "mae",
)  # fmt: skip
HEADLINE = tuple(f"{split}/{name}" for split in ("train", "val", "test") for name in _NAMES)
"""Metrics that are shown in one line, in this order."""
AVERAGE = "average/"
"""Prefix of metrics at averaged weights, such as average/val/loss."""
AVERAGE_HEADLINE = tuple(f"{AVERAGE}{name}" for name in HEADLINE)
"""The same metrics at averaged weights."""
RECENT = "recent/"
"""Prefix of metrics of the steps since the last row of log_every, such as recent/train/loss."""
RECENT_HEADLINE = tuple(f"{RECENT}{name}" for name in HEADLINE if name.startswith("train/"))
"""The headline of a row between two evaluations."""
OPTIMIZER = "optimizer/"
"""Prefix of what an optimizer reports of its steps, such as optimizer/damping and recent/optimizer/damping."""
GRADIENT_NORM, UPDATE_NORM = "gradient/norm", "update/norm"
"""The Euclidean norms |g| and |w_new - w_old| of a step."""
SEARCH_FAILED = f"{OPTIMIZER}search_failed"
"""The fraction of line searches that found no acceptable step."""
DISTILLATION = "train/distillation"
"""The mean distance of a student from its teacher, of the steps of training."""
Direction = Literal["min", "max"]
"""The direction of improvement of a metric."""
KNOWN_DIRECTIONS: Mapping[str, Direction] = {
    "loss": "min", "error": "min", "accuracy": "max", "r2": "max", "auc": "max", "top5": "max", "f1": "max",
    "precision": "max", "recall": "max", "average_precision": "max", "balanced_accuracy": "max",
    "calibration_error": "min", "mae": "min",
}  # fmt: skip
"""The directions of the metrics of dlopt.metrics.functional, which custom losses use, too."""
Statistic = Literal["mean", "median"]
"""Statistics of a metric over several runs."""


def find_direction(metric: str, declared: Mapping[str, Direction]) -> Direction | None:
    """Return the direction of a metric as it is logged, such as val/f1; None if it is not known.

    declared holds the directions of a custom loss, by the names that its `measure` returns.
    """
    own_name = re.sub(r"^(last/)?(average/|recent/)?(train|val|test)/", "", metric)
    if metric == DISTILLATION:
        return "min"
    return declared.get(own_name) or KNOWN_DIRECTIONS.get(metric.rpartition("/")[2])


def higher_is_better(metric: str, declared: Mapping[str, Direction]) -> bool:
    """Return whether larger values of a metric are better; a metric without a known direction counts as a loss."""
    return find_direction(metric, declared) == "max"


def select_headline(names: Iterable[str]) -> list[str]:
    """Return the headline metrics among these names, or those of a row between two evaluations."""
    available = set(names)
    found, recent = ([name for name in headline if name in available] for headline in (HEADLINE, RECENT_HEADLINE))
    return found or recent

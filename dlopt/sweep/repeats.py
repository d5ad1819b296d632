"""The runs of a trial: over seeds, over folds, over both; and what they come to together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlopt.metrics import higher_is_better
from dlopt.sweep.keys import Statistic
from dlopt.sweep.pruning import middle
from dlopt.sweep.study import Outcome


@dataclass(frozen=True)
class Repeat:
    """One run of a trial: the folder below that of the trial, and what it is given besides the point."""

    name: str
    overrides: tuple[str, ...]


def repeats(seeds: Sequence[int], folds: int) -> list[Repeat]:
    """Every run of a trial; without seeds and folds there is one, in the trial's own folder."""
    found = [Repeat("", ())]
    for key, label, values in (("seed", "seed", seeds), ("validation.fold", "fold", range(folds))):
        if values:
            found = [
                Repeat("-".join(filter(None, (r.name, f"{label}-{v}"))), (*r.overrides, f"{key}={v}"))
                for r in found
                for v in values
            ]
    return found


def outcome(endings: Sequence[tuple[str, Mapping[str, Any]]], objective: str, statistic: Statistic) -> Outcome:
    """What the runs of a trial, each by its status and summary, came to.

    The value is the mean of the objective, or its median, for which a run that diverged is the worst there can be: it
    stands as long as fewer than half of them do. A mean with a diverged run has no value.
    """
    states = [status for status, _ in endings]
    if "failed" in states:
        message = next((str(told.get("message", "")) for status, told in endings if status == "failed"), "")
        return Outcome("failed", None, message.partition("\n")[0])
    values = objectives(endings, objective)
    value = middle(values, statistic)
    if "pruned" in states:
        return Outcome("pruned", value if math.isfinite(value) else None)
    if not math.isfinite(value):
        count = sum(not math.isfinite(v) for v in values)
        return Outcome("diverged", None, f"{count} of {len(states)} runs diverged" * (len(states) > 1))
    return Outcome("done", value)


def objectives(endings: Sequence[tuple[str, Mapping[str, Any]]], objective: str) -> tuple[float, ...]:
    """The objective of each run that is over: the worst there can be of one that diverged."""
    worst = -math.inf if higher_is_better(objective) else math.inf
    return tuple(worst if status == "diverged" else _value(summary, objective, worst) for status, summary in endings)


def _value(summary: Mapping[str, Any], objective: str, worst: float) -> float:
    """The objective of a run; for a loss train/loss where it had no validation split."""
    found = summary.get(objective, None if higher_is_better(objective) else summary.get("train/loss"))
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else worst

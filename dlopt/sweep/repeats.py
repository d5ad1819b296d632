"""The runs of a trial: over seeds, over folds, over both; and what they come to together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.metrics.names import Statistic
from dlopt.sweep.claims import Outcome


@dataclass(frozen=True)
class Repeat:
    """One run of a trial: the folder below that of the trial, and what it is given besides the point."""

    name: str
    overrides: tuple[str, ...]


def make_repeats(seeds: Sequence[int], folds: int) -> list[Repeat]:
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


def summarize_outcome(
    endings: Sequence[tuple[str, Mapping[str, Any]]], objective: str, statistic: Statistic
) -> Outcome:
    """What the runs of a trial, each by its status and summary, came to.

    The value is the mean of the objective, or its median; none where that is not finite.
    """
    states = [status for status, _ in endings]
    if "failed" in states:
        message = next((str(told.get("message", "")) for status, told in endings if status == "failed"), "")
        return Outcome("failed", None, message.partition("\n")[0])
    values = collect_objectives(endings, objective)
    value = aggregate_values(values, statistic)
    if "pruned" in states:
        return Outcome("pruned", value if math.isfinite(value) else None)
    if not math.isfinite(value):
        count = sum(not math.isfinite(v) for v in values)
        return Outcome("diverged", None, f"{count} of {len(states)} runs diverged" * (len(states) > 1))
    return Outcome("done", value)

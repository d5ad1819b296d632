"""What the runs of a sweep have in common, and the runs of one trial: over seeds, over folds, or over both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.config.compose.nested_options import from_hydra
from dlopt.metrics.names import Statistic
from dlopt.rundir.directory import RunDirectory
from dlopt.storage.safe_read import to_printable
from dlopt.sweep.claims import Outcome
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.space import Space

FINAL_STATES = ("done", "diverged", "failed", "pruned")
"""The status of a run that has ended."""

Ending = tuple[str, Mapping[str, Any]]
"""The status of a run that has ended, and its summary."""


@dataclass(frozen=True)
class Repeat:
    """One run of a trial: its folder in the trial's folder, and its overrides besides those of the point."""

    name: str
    overrides: tuple[str, ...]


def make_repeats(seeds: Sequence[int], folds: int) -> list[Repeat]:
    """Return the runs of a trial. Without seeds and folds there is one, in the trial's own folder."""
    repeats = [Repeat("", ())]
    for key, label, values in (("seed", "seed", seeds), ("validation.fold", "fold", range(folds))):
        if values:
            repeats = [
                Repeat("-".join(filter(None, (r.name, f"{label}-{v}"))), (*r.overrides, f"{key}={v}"))
                for r in repeats
                for v in values
            ]
    return repeats


def read_ending(path: Path) -> Ending | None:
    """Return how a run ended; None if it did not end, does not exist, or lost its summary.

    The summary of a failed run is its message.
    """
    run = RunDirectory(path)
    status = run.status_or_none() or {}
    state = str(status.get("status"))
    if state not in FINAL_STATES:
        return None
    if state == "failed":
        return state, {"message": str(status.get("message") or "")}
    with contextlib.suppress(ValueError):  # damaged
        return (state, summary) if (summary := run.summary) else None
    return None


def summarize_outcome(
    endings: Sequence[Ending], objective: str, statistic: Statistic, *, higher_is_better: bool
) -> Outcome:
    """Return how a trial ended, given its runs.

    The value is the mean of the objective, or its median; None if that is not finite.
    """
    states = [status for status, _ in endings]
    if "failed" in states:
        message = str(endings[states.index("failed")][1].get("message", ""))
        return Outcome("failed", None, message.partition("\n")[0])
    values = collect_objectives(endings, objective, higher_is_better=higher_is_better)
    value = aggregate_values(values, statistic)
    if "pruned" in states:
        return Outcome("pruned", value if math.isfinite(value) else None)
    if not math.isfinite(value):
        count = sum(not math.isfinite(v) for v in values)
        return Outcome("diverged", None, f"{count} of {len(states)} runs diverged" * (len(states) > 1))
    return Outcome("done", value)


@dataclass(frozen=True)
class Plan:
    """The common part of all runs of a sweep; storage and study as in SweeperOptions.

    data_digests: SHA-256 of the user's data files, one for each data set.
    """

    folder: Path
    space: Space
    repeats: Sequence[Repeat]
    objective: str
    higher_is_better: bool
    statistic: Statistic
    pruner: Pruner
    storage: str | None
    study: str
    data_digests: tuple[str, ...] = ()

    def run_folder(self, number: int, repeat: Repeat) -> Path:
        """Return the directory of a run of the point of this ordinal."""
        return self.folder / str(number) / repeat.name

    def title(self, point: Sequence[Any], repeat: Repeat) -> str:
        """Return the overrides that tell a run from the others."""
        return to_printable(" ".join(from_hydra(o) for o in (*self.space.labels(point), *repeat.overrides)))

    def is_decided(self, endings: Sequence[Ending]) -> bool:
        """Return whether a trial is over with these endings, regardless of how the other runs would end."""
        states = [status for status, _ in endings]
        early = "failed" in states or "pruned" in states or (self.statistic == "mean" and "diverged" in states)
        return early or len(states) == len(self.repeats)

    def read_endings(self, number: int, is_retry: bool) -> dict[Repeat, Ending]:
        """Return how the runs of a point ended that have ended. A failed run does not count: a retry repeats it.

        Its failure may be that of the former attempt.
        """
        endings = {repeat: read_ending(self.run_folder(number, repeat)) for repeat in self.repeats}
        return {r: e for r, e in endings.items() if e is not None and not (is_retry and e[0] == "failed")}

    def read_outcome(self, number: int, is_retry: bool) -> Outcome | None:
        """Return how an attempt at a point ended according to its runs' directories; None if it did not end."""
        endings = [*self.read_endings(number, is_retry).values()]
        return self.summarize_outcome(endings) if endings and self.is_decided(endings) else None

    def summarize_outcome(self, endings: Sequence[Ending]) -> Outcome:
        """Return how a trial with these endings of its runs ended."""
        return summarize_outcome(endings, self.objective, self.statistic, higher_is_better=self.higher_is_better)

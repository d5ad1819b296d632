"""Many runs at a glance: what their directories say, which of their settings vary, and the mean over repetitions."""

from __future__ import annotations

import math
import operator
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from dlopt.formatting import format_override
from dlopt.metrics.names import higher_is_better
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import list_runs
from dlopt.rundir.status import Status
from dlopt.storage.safe_read import to_printable

IGNORED_SETTINGS = ("name", "resume", "device", "threads")
"""Settings that say nothing of what was learned."""
ABSENT = object()
STATES = get_args(Status)
UNFINISHED = ("running", "dead", "interrupted", "failed", "pruned")
"""States of runs that have not come to the end of their steps, or to a loss that is not finite."""


@dataclass(frozen=True)
class RunRecord:
    """One run.

    name       its directory, seen from the folder that was looked at
    status     that of the run; dead: it says that it is running, and its process is gone; damaged: it cannot be read
    progress   share of the steps that are done; None where it is not known
    settings   group -> option and key -> value, flat
    metrics    the summary of a finished run, else the last row
    seconds    of training so far
    started    seconds since the epoch
    """

    path: Path
    name: str
    status: str
    progress: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    started: float = 0.0
    message: str = ""

    def value(self, key: str) -> Any:
        """A setting, a metric, or one of run, status, progress, time, started; None where there is none."""
        if key in self.settings:
            return self.settings[key]
        return getattr(self, RECORD_FIELDS[key]) if key in RECORD_FIELDS else self.metrics.get(key)


RECORD_FIELDS = {"run": "name", "status": "status", "progress": "progress", "time": "seconds", "started": "started"}
"""What a record holds besides settings and metrics, by the names in tables."""


def read_runs(folder: Path) -> list[RunRecord]:
    """Every run below a folder, the oldest first."""
    found = [read_run(path, _name(path, folder)) for path in list_runs(folder)]
    return sorted(found, key=lambda r: (r.started, r.name))


def read_run(path: Path, name: str) -> RunRecord:
    """One run, whatever its state. Its text holds nothing that a terminal would obey."""
    name = to_printable(name)
    try:
        return _read(path, name)
    except Exception as error:  # whatever lies in such files, the other runs are shown
        return RunRecord(path, name, "damaged", message=to_printable(f"{type(error).__name__}: {error}"))


def _read(path: Path, name: str) -> RunRecord:
    run = RunDirectory(path)
    status = run.status
    state, started = str(status["status"]), float(status["started"])
    if state not in STATES:
        raise ValueError(f"{run.status_file}: {state} is no status")
    settings = _plain(status.get("settings") or {})
    goes_on = state == "running"  # then a summary is of an earlier end
    metrics = {} if goes_on else run.summary
    metrics = _plain(metrics or run.last_row() or {})
    if goes_on and run.is_stale:
        state = "dead"
    seconds = metrics.get("seconds")
    seconds = None if seconds is None else float(seconds)
    time.localtime(started)  # a time that there is
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError(f"{run.summary_file}: {seconds} seconds")
    if state == "running":
        seconds = time.time() - float(status.get("since", started))
    progress = _progress(settings, metrics) if state in UNFINISHED else None
    message = to_printable(str(status.get("message") or ""))
    return RunRecord(path, name, state, progress, settings, metrics, seconds, started, message)


def _plain(found: Any) -> dict[str, Any]:
    """Names with numbers and text that may be printed; anything else as the text that it would be typed as."""
    return {
        to_printable(name): value
        if value is None or isinstance(value, (int, float))
        else to_printable(format_override(value))
        for name, value in dict(found).items()
    }


def _name(path: Path, folder: Path) -> str:
    try:
        return str(path.relative_to(folder)) if path != folder else path.name
    except ValueError:
        return str(path)


def _progress(settings: dict[str, Any], row: dict[str, Any]) -> float | None:
    done, whole = (row.get("step"), settings.get("steps")) if settings.get("steps") else (
        row.get("epoch"), settings.get("epochs"))  # fmt: skip
    return (done or 0.0) / whole if whole else None


# ------------------------------------------------------------------------------------------------ choosing


def find_varying_settings(found: Sequence[RunRecord]) -> list[str]:
    """Settings in which runs differ; a key of an option only where runs with the same option differ in it.

    So a grid over sgd and adam with one rate each varies the optimizer alone, not every key that one of them lacks.
    """
    names = [n for n in dict.fromkeys(k for r in found for k in r.settings) if n not in IGNORED_SETTINGS]
    chosen: list[str] = []
    for name in names:
        group = name.partition(".")[0]
        values: dict[Any, set[Any]] = {}
        for r in found:
            if r.settings:  # a run that lacks the key differs from one with the same option that has it
                option = r.settings.get(group) if group != name else None
                values.setdefault(option, set()).add(r.settings.get(name, ABSENT))
        if any(len(seen) > 1 for seen in values.values()):
            chosen.append(name)
    return chosen


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """KEY=VALUE, or another comparison: != < <= > >=. A list of options holds each of its members."""

    key: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """ValueError where it is no condition."""
        parts = re.fullmatch(r"\s*([^=<>!\s]+)\s*(!=|<=|>=|==?|<|>)\s*(.*?)\s*", text)
        if not parts:
            raise ValueError(f"'{text}' is no condition; write KEY=VALUE, or KEY<NUMBER")
        return cls(parts[1], "=" if parts[2] == "==" else parts[2], parts[3].strip("'\""))

    def holds(self, record: RunRecord) -> bool:
        """Whether it is true of a run; false where the run has no such key."""
        mine = record.value(self.key)
        if mine is None:
            return self.sign in ("=", "!=") and (self.value in ("null", "none", "")) == (self.sign == "=")
        wanted: Any = self.value
        if isinstance(mine, (int, float)) and not isinstance(mine, bool):
            try:
                wanted = float(wanted)
            except ValueError:
                return self.sign == "!="
        elif self.sign in ("=", "!="):
            mine = format_override(mine)
            if mine.startswith("[") and not wanted.startswith("["):
                return (wanted in mine[1:-1].split(",")) == (self.sign == "=")
        else:
            mine = format_override(mine)
        return _COMPARE[self.sign](mine, wanted)


def sort_runs(key: str, found: Iterable[RunRecord]) -> list[RunRecord]:
    """Sorted by a setting or a metric; metrics with the best first, runs without a value last."""

    def place(r: RunRecord) -> tuple[int, float, str]:
        value = r.value(key)
        if isinstance(value, bool) or value is None or (isinstance(value, float) and math.isnan(value)):
            return (2, 0.0, "") if value is None or isinstance(value, float) else (0, float(value), "")
        if isinstance(value, (int, float)):
            return (0, -value if higher_is_better(key) else value, "")
        return (1, 0.0, str(value))

    return sorted(found, key=place)


# ------------------------------------------------------------------------------------------------ repetitions


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but what they are repeated over."""

    settings: dict[str, Any]
    runs: list[RunRecord]

    def mean(self, metric: str) -> tuple[float, float | None, int] | None:
        """Mean, sample standard deviation (None of one run) and number of the runs that ended with a finite value."""
        ended = [r.metrics.get(metric) for r in self.runs if r.status == "done"]
        values = [v for v in ended if isinstance(v, (int, float)) and math.isfinite(v)]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def group_runs(found: Sequence[RunRecord], over: Sequence[str]) -> list[RunGroup]:
    """Runs brought together that agree in every varying setting but those of `over`.

    Of several runs with the same settings, which say the same, the last counts.
    """
    if over:
        found = list({tuple(r.settings.items()) or r.name: r for r in found}.values())
    names = [name for name in find_varying_settings(found) if name not in over]
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in found:
        groups.setdefault(tuple(record.settings.get(name) for name in names), []).append(record)
    return [RunGroup(dict(zip(names, values, strict=True)), runs) for values, runs in groups.items()]

"""Records of many runs: read them, filter and sort them, find the settings that vary, and average over repeats."""

from __future__ import annotations

import contextlib
import math
import operator
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from dlopt.config.problems import describe_failure
from dlopt.formatting import format_override, split_outside_brackets
from dlopt.metrics.names import Direction, higher_is_better
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import list_runs
from dlopt.rundir.status import Status
from dlopt.storage.safe_read import to_printable

IGNORED_SETTINGS = ("name", "resume", "device", "threads")
"""Settings that do not affect what is learned."""
ABSENT = object()
STATES = get_args(Status)
UNFINISHED = ("running", "dead", "interrupted", "failed", "pruned")
"""States of runs that ended neither after all of their steps nor with a loss that is not finite."""


@dataclass(frozen=True)
class RunRecord:
    """One run.

    name       its directory, relative to the folder that was read
    status     status of the run; dead: it claims to run, but its process is gone; damaged: it cannot be read
    progress   fraction of the steps that are done; None if unknown
    settings   group -> option and key -> value, flat
    metrics    summary of a finished run, else its last row
    seconds    training time so far
    started    start time in seconds since the epoch
    directions the directions of improvement that a custom loss declares for its metrics
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
    directions: dict[str, Direction] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """Return a setting, a metric, or one of RECORD_FIELDS; None if the run has no such key."""
        if key in self.settings:
            return self.settings[key]
        return getattr(self, RECORD_FIELDS[key]) if key in RECORD_FIELDS else self.metrics.get(key)


RECORD_FIELDS = {"run": "name", "status": "status", "progress": "progress", "time": "seconds", "started": "started"}
"""Column names of a record's own fields."""


def read_runs(folder: Path) -> list[RunRecord]:
    """Read every run below a folder, oldest first."""
    runs = [
        read_run(path, path.name if path == folder else str(path.relative_to(folder))) for path in list_runs(folder)
    ]
    return sorted(runs, key=lambda r: (r.started, r.name))


def add_row_values(records: Sequence[RunRecord], names: Collection[str]) -> list[RunRecord]:
    """Return the records with these metrics of their last rows, which summaries do not have: those of diagnostics."""
    if not names:
        return list(records)
    found = [{k: v for k, v in _read_last_values(r.path).items() if k in names} for r in records]
    return [replace(r, metrics=values | r.metrics) for r, values in zip(records, found, strict=True)]


def _read_last_values(path: Path) -> dict[str, Any]:
    """Return the last value of each name in the rows of a run; a diagnostic need not be in the last row."""
    values: dict[str, Any] = {}
    with contextlib.suppress(ValueError, OSError):  # such as rows that are too many
        for row in RunDirectory(path).iter_rows():
            values |= row or {}
    return _to_plain(values)


def read_run(path: Path, name: str) -> RunRecord:
    """Read one run in any state. Its texts are printable: they contain no control sequences."""
    name = to_printable(name)
    try:
        return _read(path, name)
    except Exception as error:  # a damaged run must not hide the others
        return RunRecord(path, name, "damaged", message=to_printable(describe_failure(error)))


def _read(path: Path, name: str) -> RunRecord:
    run = RunDirectory(path)
    status = run.status
    state, started = str(status["status"]), float(status["started"])
    if state not in STATES:
        raise ValueError(f"{run.status_file}: {state} is not a status")
    settings = _to_plain(status.get("settings") or {})
    is_running = state == "running"
    metrics = _to_plain((not is_running and run.summary) or run.last_row() or {})  # an old summary of a resumed run
    if is_running and run.is_stale:
        state = "dead"
    time.localtime(started)  # raises an error for a time out of range
    seconds = None if metrics.get("seconds") is None else float(metrics["seconds"])
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError(f"{run.summary_file}: {seconds} seconds")
    if state == "running":
        seconds = time.time() - float(status.get("since", started))
    progress = None
    if state in UNFINISHED:
        key, total = ("step", settings["steps"]) if settings.get("steps") else ("epoch", settings.get("epochs"))
        progress = (metrics.get(key) or 0.0) / total if total else None
    message = to_printable(str(status.get("message") or ""))
    return RunRecord(
        path, name, state, progress, settings, metrics, seconds, started, message, _read_directions(status)
    )


def _read_directions(status: Mapping[str, Any]) -> dict[str, Direction]:
    """Return the directions that the status records."""
    directions = status.get("directions")
    pairs = directions.items() if isinstance(directions, dict) else ()
    return {to_printable(name): direction for name, direction in pairs if direction in get_args(Direction)}


def merge_directions(runs: Iterable[RunRecord]) -> dict[str, Direction]:
    """Return the directions that the losses of these runs declare; of two for one metric, the last counts."""
    return {name: direction for r in runs for name, direction in r.directions.items()}


def _to_plain(mapping: Any) -> dict[str, Any]:
    """Return printable names with numbers and printable text; other values are formatted as overrides."""
    return {
        to_printable(name): value
        if value is None or isinstance(value, (int, float))
        else to_printable(format_override(value))
        for name, value in dict(mapping).items()
    }


# ------------------------------------------------------------------------------------------------ selection


def find_varying_settings(runs: Sequence[RunRecord]) -> list[str]:
    """Return the settings in which runs differ; a key of an option only if runs with the same option differ in it.

    A grid over sgd and adam, each with one learning rate, therefore varies the optimizer only.
    """
    names = [n for n in dict.fromkeys(k for r in runs for k in r.settings) if n not in IGNORED_SETTINGS]
    varying: list[str] = []
    for name in names:
        group = name.partition(".")[0]
        values: dict[Any, set[Any]] = {}
        for r in runs:
            if r.settings:  # a run without the key differs from one with the same option that has it
                option = r.settings.get(group) if group != name else None
                values.setdefault(option, set()).add(r.settings.get(name, ABSENT))
        if any(len(distinct) > 1 for distinct in values.values()):
            varying.append(name)
    return varying


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class RunFilter:
    """A filter KEY=VALUE, or with != < <= > >=.

    A value may be several, separated by commas: = holds if one of them is equal, != if none is. A setting that is a
    list of options equals each of its members.
    """

    key: str
    sign: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> RunFilter:
        """Parse a condition. Raises ValueError if the text is not one."""
        parts = re.fullmatch(r"\s*([^=<>!\s]+)\s*(!=|<=|>=|==?|<|>)\s*(.*?)\s*", text)
        if not parts:
            raise ValueError(f"'{text}' is not a condition; write KEY=VALUE, or KEY<NUMBER")
        sign, operand = "=" if parts[2] == "==" else parts[2], parts[3]
        is_quoted = operand[:1] in ("'", '"') and operand.endswith(operand[:1])
        values = [operand] if is_quoted else split_outside_brackets(operand)
        if len(values) > 1 and sign not in ("=", "!="):
            raise ValueError(f"'{text}': {sign} compares with one number; only = and != take several values")
        return cls(parts[1], sign, tuple(value.strip().strip("'\"") for value in values))

    def holds(self, record: RunRecord) -> bool:
        """Return whether the condition is true for a run; a run without the key has the value null."""
        value = record.value(self.key)
        results = [self._compares(value, operand) for operand in self.values]
        return all(results) if self.sign == "!=" else any(results)

    def _compares(self, value: Any, operand: str) -> bool:
        is_equality = self.sign in ("=", "!=")
        if value is None:
            return is_equality and (operand in ("null", "none", "")) == (self.sign == "=")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                return _COMPARE[self.sign](value, float(operand))
            except ValueError:
                return self.sign == "!="
        text = format_override(value)
        if is_equality and text.startswith("[") and not operand.startswith("["):
            return (operand in text[1:-1].split(",")) == (self.sign == "=")
        return _COMPARE[self.sign](text, operand)


def sort_runs(key: str, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Sort runs by a setting or a metric, best metric first; runs without a value come last."""
    runs = list(runs)
    higher = higher_is_better(key, merge_directions(runs))
    return sorted(runs, key=lambda r: rank_value(r.value(key), higher))


def rank_value(value: Any, higher: bool) -> tuple[int, float, str]:
    """Return a key to sort by: numbers with the best first, then texts, then missing values.

    higher: whether higher numbers are better.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 2, 0.0, ""
    if isinstance(value, (int, float)):
        return 0, -value if higher else value, ""
    return 1, 0.0, str(value)


# ------------------------------------------------------------------------------------------------ repeats


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in the keys they are repeated over."""

    settings: dict[str, Any]
    runs: list[RunRecord]

    def mean(self, metric: str) -> tuple[float, float | None, int] | None:
        """Return mean, sample standard deviation and number of the finished runs with a finite value, None without any.

        The standard deviation of one run is None.
        """
        ended = [r.metrics.get(metric) for r in self.runs if r.status == "done"]
        values = [v for v in ended if isinstance(v, (int, float)) and math.isfinite(v)]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def group_runs(runs: Sequence[RunRecord], over: Sequence[str]) -> list[RunGroup]:
    """Group runs that agree in every varying setting except those of `over`; of repeated runs, one counts."""
    runs = omit_repeated(runs) if over else runs
    names = [name for name in find_varying_settings(runs) if name not in over]
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in runs:
        groups.setdefault(tuple(record.settings.get(name) for name in names), []).append(record)
    return [RunGroup(dict(zip(names, values, strict=True)), group) for values, group in groups.items()]


def sort_groups(key: str, groups: Iterable[RunGroup], over: Sequence[str]) -> list[RunGroup]:
    """Sort groups by a setting, or by the mean of a metric, the best first; those without a value come last.

    Raises ValueError for a key in which the runs of a group differ.
    """
    groups = list(groups)
    is_setting = any(key in r.settings for group in groups for r in group.runs)
    if key in over or (key in RECORD_FIELDS and not is_setting):
        raise ValueError(f"--sort {key}: the runs behind one mean differ in it; sort by another setting or a metric")

    higher = higher_is_better(key, merge_directions(r for group in groups for r in group.runs))

    def rank(group: RunGroup) -> tuple[int, float, str]:
        mean = None if is_setting else group.mean(key)
        return rank_value(group.runs[0].value(key) if is_setting else mean and mean[0], higher)

    return sorted(groups, key=rank)


def omit_repeated(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return one run for each configuration and seed: the newest that came to its end, else the newest.

    Runs with the same settings have the same results, so a second one is not another sample.
    """

    def identify(r: RunRecord) -> Any:
        relevant = (pair for pair in r.settings.items() if pair[0] not in IGNORED_SETTINGS)
        return tuple(sorted(relevant, key=operator.itemgetter(0))) or r.name

    ordered = sorted(runs, key=lambda r: (r.status in ("done", "diverged"), r.started))
    chosen = {identify(r): r for r in ordered}
    return [r for r in runs if chosen[identify(r)] is r]

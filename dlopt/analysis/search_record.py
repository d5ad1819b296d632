"""A search as it lies on the disk: what was searched, and what became of each of its trials.

A trial is one point of the space that is searched. It has one run, or one for each repeat (seeds, folds); its value is
the mean, or the median, of the objective over them. All of it is read from the runs and from sweep.json, which is
written before the first run; a sweep of an earlier version has none, and is described by what varies among its runs.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.analysis.run_table import RunRecord, find_varying_settings, read_runs
from dlopt.formatting import format_override
from dlopt.metrics.names import Statistic, higher_is_better
from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage import safe_read

FORMAT = 1
"""Of sweep.json."""
MAX_BYTES = 1 << 20
"""Bytes of sweep.json: a grid of ten thousand values has a fifth of it."""
MAX_DIGITS = 9
"""Of the number of a trial."""
MAX_NUMBER = 1e100
"""Numbers are smaller than this; the squares of larger ones could not be added."""
MIN_LOG_RATIO = 10.0
"""How far two numbers are apart, one divided by the other, that are taken for points of a logarithmic scale."""

MAX_UNBINNED = 12
"""Numbers of an axis up to which each is looked at alone."""

Value = str | float
"""Of a hyperparameter: a number where its axis is numeric, else text as it is typed."""
PRECEDENCE = ("running", "damaged", "failed", "dead", "interrupted", "pruned", "diverged", "done")
"""Of the states of its runs the first of these that occurs is that of a trial; damaged counts as failed."""
ENDED_STATES = ("done", "diverged", "pruned", "failed")
"""States of trials that need not be tried again."""


@dataclass(frozen=True)
class SearchAxis:
    """One hyperparameter that is searched.

    values   those of a choice or a grid, in order; empty for an interval
    low      the least number, high the largest; None where values are text
    log      whether its own scale is the logarithm
    whole    whether only whole numbers lie on it
    step     between the numbers of an interval; None for any number
    """

    key: str
    values: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    step: float | None = None

    @property
    def is_numeric(self) -> bool:
        return self.low is not None

    @property
    def is_interval(self) -> bool:
        return not self.values

    @property
    def is_binned(self) -> bool:
        """Whether its numbers are too many to look at each of them alone."""
        if not self.is_interval:
            return self.is_numeric and len(self.values) > MAX_UNBINNED
        assert self.low is not None and self.high is not None
        return not self.whole or (self.high - self.low) / (self.step or 1.0) >= MAX_UNBINNED

    def to_scale(self, value: float) -> float:
        """A number on the axis' own scale: log10 of it, or itself."""
        return math.log10(value) if self.log else value

    def share(self, value: float) -> float:
        """Where a number lies between the ends: 0 at the low one, 1 at the high one, in the axis' own scale."""
        assert self.low is not None and self.high is not None
        low, high = self.to_scale(self.low), self.to_scale(self.high)
        return (self.to_scale(value) - low) / (high - low) if high > low else 0.0

    def value(self, settings: Mapping[str, Any]) -> Value | None:
        """That of a run with these settings; None where it has none, or one that has no place on the axis."""
        if self.key not in settings:
            return None
        found = settings[self.key]
        if not self.is_numeric:
            return canonicalize(found)
        known = parse_number(found)
        return None if known is None or (self.log and known <= 0) else known

    def format_value(self, value: Value) -> str:
        """A value as people type it, numbers of an interval with four digits."""
        if isinstance(value, str):
            return value
        return f"{value:.4g}" if self.is_interval and not self.whole else f"{value:.10g}"

    def describe_range(self) -> str:
        """All of it in a few words."""
        if self.is_interval:
            return f"{self.low:g}..{self.high:g}{' (log)' if self.log else ''}"
        shown = [self.format_value(v) for v in self.values]
        return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-2:]])


@dataclass(frozen=True)
class TrialRecord:
    """One point of the space.

    number   its place in the order of trials
    state    running, done, pruned, diverged, failed, dead or interrupted; the last also of one that lacks repeats
    value    the objective; None unless the trial is done, and has one
    sd       sample standard deviation over repeats; None for fewer than two
    seconds  of training, over all repeats
    """

    number: int
    path: Path
    runs: tuple[RunRecord, ...]
    point: dict[str, Value]
    state: str
    value: float | None = None
    sd: float | None = None

    @property
    def seconds(self) -> float:
        return sum(r.seconds or 0.0 for r in self.runs)


@dataclass(frozen=True)
class SearchRecord:
    """A sweep, its axes and its trials in the order of their numbers.

    planned   how many trials it is to have; None where it is not known
    repeats   runs of each trial
    fixed     overrides that all trials have in common; None where it is not known
    storage   where its study is kept
    notice    what is wrong with its sweep.json; empty where nothing is
    """

    path: Path
    axes: tuple[SearchAxis, ...]
    objective: str
    higher_is_better: bool
    trials: tuple[TrialRecord, ...]
    sampler: str = ""
    n_planned: int | None = None
    repeats: int = 1
    seeds: int = 0
    folds: int = 0
    statistic: str = "mean"
    fixed_overrides: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    storage: str = ""
    notice: str = ""

    @cached_property
    def ranked_trials(self) -> list[TrialRecord]:
        """Trials that are done and have a value, the best first; of equal ones the earlier."""
        valued = [(t.value, t) for t in self.trials if t.value is not None]
        return [t for _, t in sorted(valued, key=lambda p: (-p[0] if self.higher_is_better else p[0], p[1].number))]

    @property
    def best(self) -> TrialRecord | None:
        return self.ranked_trials[0] if self.ranked_trials else None

    @property
    def states(self) -> Counter[str]:
        return Counter(t.state for t in self.trials)

    def axis(self, key: str) -> SearchAxis:
        """That of a key; KeyError where it was not searched."""
        return {a.key: a for a in self.axes}[key]


@dataclass(frozen=True)
class _Plan:
    """What sweep.json says."""

    axes: tuple[SearchAxis, ...]
    objective: str
    higher_is_better: bool
    more: dict[str, Any] = field(default_factory=dict)


def read_search(folder: Path) -> SearchRecord:
    """The search in a folder, whatever lies in it."""
    return build_search(folder, read_runs(folder))


def build_search(folder: Path, found: Sequence[RunRecord]) -> SearchRecord:
    """The same of runs that are read already."""
    notice, plan = "", None
    try:
        plan = _plan(safe_read.read_json(folder / SWEEP_FILE, MAX_BYTES), folder / SWEEP_FILE)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        notice = safe_read.to_printable(str(error))
    if plan is None:
        return _infer_search(folder, found, notice)
    repeats, statistic = plan.more["repeats"], plan.more["statistic"]
    groups: dict[str, list[RunRecord]] = {}
    for record in found:
        name = _first(record, folder)
        if not (folder / name / SWEEP_FILE).is_file():  # what is in it is another search
            groups.setdefault(name, []).append(record)
    objective = _objective(plan.objective, found)
    numbers = _numbers(list(groups))
    judge = _judge(objective, repeats, statistic)
    trials = [_trial(numbers[name], folder / name, runs, plan.axes, judge) for name, runs in groups.items()]
    return SearchRecord(folder, plan.axes, objective, plan.higher_is_better, _sort_trials(trials), **plan.more)


def canonicalize(value: Any) -> str:
    """A value as it is typed, in one way: 1e-1 and 0.10 are 0.1, and lists have no spaces."""
    text = format_override(value)
    if isinstance(value, bool) or (known := parse_number(text)) is None:
        return text.replace(" ", "") if text.startswith("[") else text
    return f"{known:.12g}"


def parse_number(value: Any) -> float | None:
    """The number below 1e100 in size that a value is, as itself or as text; None for any other."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < MAX_NUMBER else None


# ------------------------------------------------------------------------------------------------ sweep.json


def _plan(content: Mapping[str, Any], file: Path) -> _Plan:
    """ValueError, which names the file and what is wrong in it."""

    def check(right: bool, said: str) -> None:
        if not right:
            raise safe_read.UnreadableFile(file, said)

    def texts(key: str) -> tuple[str, ...]:
        found = content.get(key, [])
        check(isinstance(found, list) and all(isinstance(x, str) for x in found), f"'{key}' is no list of text")
        return tuple(safe_read.to_printable(x) for x in found)

    def count(key: str, least: int) -> int:
        found = content.get(key, 0)
        check(_is_count(found) and found >= least, f"'{key}' is no number from {least} on")
        return int(found)

    check(content.get("format") == FORMAT, f"is of format {content.get('format')}, and {FORMAT} is known")
    objective, direction = content.get("objective"), content.get("direction")
    check(isinstance(objective, str) and objective != "", "'objective' is no metric")
    check(direction in ("minimize", "maximize"), "'direction' is neither minimize nor maximize")
    entries, seeds = content.get("axes"), content.get("seeds", [])
    check(isinstance(entries, list) and all(isinstance(e, dict) for e in entries), "'axes' is no list of axes")
    check(isinstance(seeds, list), "'seeds' is no list")
    statistic = content.get("statistic", "mean")
    check(statistic in ("mean", "median"), "'statistic' is neither mean nor median")
    axes = []
    for i, entry in enumerate(entries or ()):
        axis = _axis(entry)
        if axis is None:
            raise safe_read.UnreadableFile(file, f"axis {i} is neither a choice with values nor an interval with ends")
        axes.append(axis)
    check(len({a.key for a in axes}) == len(axes), "has two axes of one key")
    folds = count("folds", 0)
    more = {
        "sampler": safe_read.to_printable(str(content.get("sampler", "grid"))), "n_planned": count("trials", 0) or None,
        "repeats": max(1, len(seeds)) * max(1, folds), "seeds": len(seeds), "folds": folds, "statistic": statistic,
        "fixed_overrides": texts("fixed"), "command": texts("command"),
        "storage": safe_read.to_printable(str(content.get("storage", ""))),
    }  # fmt: skip
    return _Plan(tuple(axes), safe_read.to_printable(str(objective)), direction == "maximize", more)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _axis(entry: Mapping[str, Any]) -> SearchAxis | None:
    """The axis that an entry of sweep.json describes; None if it describes none."""
    key, kind, values = entry.get("key"), entry.get("kind"), entry.get("values")
    if not isinstance(key, str) or not key:
        return None
    key = safe_read.to_printable(key).lstrip("+").rpartition("@")[2]
    if kind == "choice":
        if not isinstance(values, list) or not values or any(isinstance(v, dict) for v in values):
            return None
        return make_choice_axis(key, [safe_read.to_printable(canonicalize(v)) for v in values])
    low, high, step = (parse_number(entry.get(name)) for name in ("low", "high", "step"))
    log = bool(entry.get("log"))
    if kind not in ("int", "float") or low is None or high is None or low > high or (log and low <= 0):
        return None
    return SearchAxis(key, (), low, high, log, kind == "int", step if step is None or step > 0 else None)


def make_choice_axis(key: str, values: Sequence[str]) -> SearchAxis:
    """The axis of a grid over these values: a numeric one where all of them are numbers, which are put in order.

    Its scale is the logarithm where the numbers are positive and lie more evenly on it.
    """
    names = tuple(dict.fromkeys(values))
    numbers = [parse_number(name) for name in names]
    known = sorted({x for x in numbers if x is not None})
    if None in numbers:
        return SearchAxis(key, names)
    whole = all(x.is_integer() for x in known)
    return SearchAxis(key, tuple(known), known[0], known[-1], _is_logarithmic(known), whole)


def _is_logarithmic(values: Sequence[float]) -> bool:
    if values[0] <= 0 or len(values) < 2:
        return False
    if len(values) == 2:
        return values[1] / values[0] >= MIN_LOG_RATIO

    def uneven(x: Sequence[float]) -> float:
        gaps = [b - a for a, b in pairwise(x)]
        return statistics.pstdev(gaps) / statistics.fmean(gaps)

    return uneven([math.log(x) for x in values]) < uneven(values)


# ------------------------------------------------------------------------------------------------ trials


def _first(record: RunRecord, folder: Path) -> str:
    """The directory of the trial that a run belongs to, seen from the sweep's."""
    parts = record.path.relative_to(folder).parts
    return parts[0] if parts else ""


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each trial; one whose directory is called otherwise gets the next that is free."""
    found = {n: int(n) for n in names if n.isascii() and n.isdecimal() and len(n) <= MAX_DIGITS}
    free = max(found.values(), default=-1) + 1
    others = [n for n in names if n not in found]
    return found | {name: free + i for i, name in enumerate(others)}


def _sort_trials(trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    return tuple(sorted(trials, key=lambda t: t.number))


Judge = Callable[[Sequence[RunRecord]], tuple[str, float | None, float | None]]


def _judge(objective: str, repeats: int, statistic: Statistic) -> Judge:
    """What tells state, value and standard deviation of a trial from its runs."""

    def judge(runs: Sequence[RunRecord]) -> tuple[str, float | None, float | None]:
        states = {r.status for r in runs}
        state = next(s for s in PRECEDENCE if s in states)
        decided = len(runs) >= repeats or (state == "diverged" and statistic == "mean")
        if state not in ("done", "diverged"):
            return "failed" if state == "damaged" else state, None, None
        if not decided:
            return "interrupted", None, None
        if not all(_is_value(r.metrics.get(objective, "")) for r in runs if r.status == "done"):
            return state, None, None
        values = collect_objectives(
            [(r.status, {objective: parse_number(r.metrics.get(objective))}) for r in runs], objective
        )
        value = aggregate_values(values, statistic)
        finite = [v for v in values if math.isfinite(v)]
        sd = statistics.stdev(finite) if len(finite) > 1 else None
        return ("done", value, sd) if math.isfinite(value) else ("diverged", None, None)

    return judge


def _is_value(found: Any) -> bool:
    """Whether it is a number, or what is written of one that is not finite; not where a file is damaged."""
    return found is None or (isinstance(found, float) and not math.isfinite(found)) or parse_number(found) is not None


def _trial(number: int, path: Path, runs: Sequence[RunRecord], axes: Sequence[SearchAxis], judge: Judge) -> TrialRecord:
    settings = next((r.settings for r in runs if r.settings), {})
    point = {a.key: v for a in axes if (v := a.value(settings)) is not None}
    return TrialRecord(number, path, tuple(runs), point, *judge(runs))


def _objective(said: str, found: Sequence[RunRecord]) -> str:
    """The metric that is compared: that of the configuration, or train/loss where no run has it."""
    has = {name for r in found for name in (said, "train/loss") if r.metrics.get(name) is not None}
    return "train/loss" if has == {"train/loss"} else said


def _infer_search(folder: Path, found: Sequence[RunRecord], notice: str) -> SearchRecord:
    """A sweep by what varies among its runs: those that differ in the seed alone are repeats of one trial."""
    names = [name for name in find_varying_settings(found) if name not in ("seed", "objective")]
    axes = [
        make_choice_axis(name, [canonicalize(r.settings[name]) for r in found if name in r.settings]) for name in names
    ]
    said = Counter(str(r.settings["objective"]) for r in found if "objective" in r.settings).most_common(1)
    objective = _objective(said[0][0] if said else "val/loss", found)
    groups: dict[Any, list[RunRecord]] = {}
    for r in found:
        at = tuple(canonicalize(r.settings[n]) if n in r.settings else None for n in names) if r.settings else r.name
        groups.setdefault(at, []).append(r)
    firsts = [min(runs, key=lambda r: (len(r.name), r.name)) for runs in groups.values()]
    numbers = _numbers([str(r.path.relative_to(folder)) for r in firsts])
    repeats = max((len({str(r.settings.get("seed")) for r in runs}) for runs in groups.values()), default=1)
    judge = _judge(objective, 1, "mean")
    trials = [
        _trial(numbers[str(first.path.relative_to(folder))], first.path, runs, axes, judge)
        for first, runs in zip(firsts, groups.values(), strict=True)
    ]
    seeds = repeats if repeats > 1 else 0
    return SearchRecord(
        folder, tuple(axes), objective, higher_is_better(objective), _sort_trials(trials),
        repeats=repeats, seeds=seeds, notice=notice,
    )  # fmt: skip

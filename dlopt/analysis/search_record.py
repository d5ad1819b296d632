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

from dlopt.analysis.aggregate import middle, objectives
from dlopt.analysis.run_table import Record, records, varying
from dlopt.formatting import written
from dlopt.metrics.names import Statistic, higher_is_better
from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage import safe_read

FORMAT = 1
"""Of sweep.json."""
LARGEST = 1 << 20
"""Bytes of sweep.json: a grid of ten thousand values has a fifth of it."""
MOST_DIGITS = 9
"""Of the number of a trial."""
FARTHEST = 1e100
"""Numbers are smaller than this; the squares of larger ones could not be added."""
EVEN = 10.0
"""How far two numbers are apart, one divided by the other, that are taken for points of a logarithmic scale."""

MOST_ALONE = 12
"""Numbers of an axis up to which each is looked at alone."""

Value = str | float
"""Of a hyperparameter: a number where its axis is numeric, else text as it is typed."""
PRECEDENCE = ("running", "damaged", "failed", "dead", "interrupted", "pruned", "diverged", "done")
"""Of the states of its runs the first of these that occurs is that of a trial; damaged counts as failed."""
ENDED = ("done", "diverged", "pruned", "failed")
"""States of trials that need not be tried again."""


@dataclass(frozen=True)
class Axis:
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
    def numeric(self) -> bool:
        return self.low is not None

    @property
    def interval(self) -> bool:
        return not self.values

    @property
    def binned(self) -> bool:
        """Whether its numbers are too many to look at each of them alone."""
        if not self.interval:
            return self.numeric and len(self.values) > MOST_ALONE
        assert self.low is not None and self.high is not None
        return not self.whole or (self.high - self.low) / (self.step or 1.0) >= MOST_ALONE

    def scaled(self, value: float) -> float:
        """A number on the axis' own scale: log10 of it, or itself."""
        return math.log10(value) if self.log else value

    def share(self, value: float) -> float:
        """Where a number lies between the ends: 0 at the low one, 1 at the high one, in the axis' own scale."""
        assert self.low is not None and self.high is not None
        low, high = self.scaled(self.low), self.scaled(self.high)
        return (self.scaled(value) - low) / (high - low) if high > low else 0.0

    def value(self, settings: Mapping[str, Any]) -> Value | None:
        """That of a run with these settings; None where it has none, or one that has no place on the axis."""
        if self.key not in settings:
            return None
        found = settings[self.key]
        if not self.numeric:
            return canonical(found)
        known = number(found)
        return None if known is None or (self.log and known <= 0) else known

    def written(self, value: Value) -> str:
        """A value as people type it, numbers of an interval with four digits."""
        if isinstance(value, str):
            return value
        return f"{value:.4g}" if self.interval and not self.whole else f"{value:.10g}"

    def range(self) -> str:
        """All of it in a few words."""
        if self.interval:
            return f"{self.low:g}..{self.high:g}{' (log)' if self.log else ''}"
        shown = [self.written(v) for v in self.values]
        return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-2:]])


@dataclass(frozen=True)
class Trial:
    """One point of the space.

    number   its place in the order of trials
    state    running, done, pruned, diverged, failed, dead or interrupted; the last also of one that lacks repeats
    value    the objective; None unless the trial is done, and has one
    sd       sample standard deviation over repeats; None for fewer than two
    seconds  of training, over all repeats
    """

    number: int
    path: Path
    runs: tuple[Record, ...]
    point: dict[str, Value]
    state: str
    value: float | None = None
    sd: float | None = None

    @property
    def seconds(self) -> float:
        return sum(r.seconds or 0.0 for r in self.runs)


@dataclass(frozen=True)
class Search:
    """A sweep, its axes and its trials in the order of their numbers.

    planned   how many trials it is to have; None where it is not known
    repeats   runs of each trial
    fixed     overrides that all trials have in common; None where it is not known
    storage   where its study is kept
    notice    what is wrong with its sweep.json; empty where nothing is
    """

    path: Path
    axes: tuple[Axis, ...]
    objective: str
    higher: bool
    trials: tuple[Trial, ...]
    sampler: str = ""
    planned: int | None = None
    repeats: int = 1
    seeds: int = 0
    folds: int = 0
    statistic: str = "mean"
    fixed: tuple[str, ...] | None = None
    command: tuple[str, ...] = ()
    storage: str = ""
    notice: str = ""

    @cached_property
    def ranked(self) -> list[Trial]:
        """Trials that are done and have a value, the best first; of equal ones the earlier."""
        valued = [(t.value, t) for t in self.trials if t.value is not None]
        return [t for _, t in sorted(valued, key=lambda p: (-p[0] if self.higher else p[0], p[1].number))]

    @property
    def best(self) -> Trial | None:
        return self.ranked[0] if self.ranked else None

    @property
    def states(self) -> Counter[str]:
        return Counter(t.state for t in self.trials)

    def axis(self, key: str) -> Axis:
        """That of a key; KeyError where it was not searched."""
        return {a.key: a for a in self.axes}[key]


@dataclass(frozen=True)
class _Plan:
    """What sweep.json says."""

    axes: tuple[Axis, ...]
    objective: str
    higher: bool
    more: dict[str, Any] = field(default_factory=dict)


def read(folder: Path) -> Search:
    """The search in a folder, whatever lies in it."""
    return of_records(folder, records(folder))


def of_records(folder: Path, found: Sequence[Record]) -> Search:
    """The same of runs that are read already."""
    notice, plan = "", None
    try:
        plan = _plan(safe_read.json_object(folder / SWEEP_FILE, LARGEST), folder / SWEEP_FILE)
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        notice = safe_read.printable(str(error))
    if plan is None:
        return _described(folder, found, notice)
    repeats, statistic = plan.more["repeats"], plan.more["statistic"]
    groups: dict[str, list[Record]] = {}
    for record in found:
        name = _first(record, folder)
        if not (folder / name / SWEEP_FILE).is_file():  # what is in it is another search
            groups.setdefault(name, []).append(record)
    objective = _objective(plan.objective, found)
    numbers = _numbers(list(groups))
    judge = _judge(objective, repeats, statistic)
    trials = [_trial(numbers[name], folder / name, runs, plan.axes, judge) for name, runs in groups.items()]
    return Search(folder, plan.axes, objective, plan.higher, _ordered(trials), **plan.more)


def canonical(value: Any) -> str:
    """A value as it is typed, in one way: 1e-1 and 0.10 are 0.1, and lists have no spaces."""
    text = written(value)
    if isinstance(value, bool) or (known := number(text)) is None:
        return text.replace(" ", "") if text.startswith("[") else text
    return f"{known:.12g}"


def number(value: Any) -> float | None:
    """The number below 1e100 in size that a value is, as itself or as text; None for any other."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < FARTHEST else None


# ------------------------------------------------------------------------------------------------ sweep.json


def _plan(content: Mapping[str, Any], file: Path) -> _Plan:
    """ValueError, which names the file and what is wrong in it."""

    def check(right: bool, said: str) -> None:
        if not right:
            raise safe_read.Unreadable(file, said)

    def texts(key: str) -> tuple[str, ...]:
        found = content.get(key, [])
        check(isinstance(found, list) and all(isinstance(x, str) for x in found), f"'{key}' is no list of text")
        return tuple(safe_read.printable(x) for x in found)

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
            raise safe_read.Unreadable(file, f"axis {i} is neither a choice with values nor an interval with ends")
        axes.append(axis)
    check(len({a.key for a in axes}) == len(axes), "has two axes of one key")
    folds = count("folds", 0)
    more = {
        "sampler": safe_read.printable(str(content.get("sampler", "grid"))), "planned": count("trials", 0) or None,
        "repeats": max(1, len(seeds)) * max(1, folds), "seeds": len(seeds), "folds": folds, "statistic": statistic,
        "fixed": texts("fixed"), "command": texts("command"),
        "storage": safe_read.printable(str(content.get("storage", ""))),
    }  # fmt: skip
    return _Plan(tuple(axes), safe_read.printable(str(objective)), direction == "maximize", more)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _axis(entry: Mapping[str, Any]) -> Axis | None:
    """The axis that an entry of sweep.json describes; None if it describes none."""
    key, kind, values = entry.get("key"), entry.get("kind"), entry.get("values")
    if not isinstance(key, str) or not key:
        return None
    key = safe_read.printable(key).lstrip("+").rpartition("@")[2]
    if kind == "choice":
        if not isinstance(values, list) or not values or any(isinstance(v, dict) for v in values):
            return None
        return choice(key, [safe_read.printable(canonical(v)) for v in values])
    low, high, step = (number(entry.get(name)) for name in ("low", "high", "step"))
    log = bool(entry.get("log"))
    if kind not in ("int", "float") or low is None or high is None or low > high or (log and low <= 0):
        return None
    return Axis(key, (), low, high, log, kind == "int", step if step is None or step > 0 else None)


def choice(key: str, values: Sequence[str]) -> Axis:
    """The axis of a grid over these values: a numeric one where all of them are numbers, which are put in order.

    Its scale is the logarithm where the numbers are positive and lie more evenly on it.
    """
    names = tuple(dict.fromkeys(values))
    numbers = [number(name) for name in names]
    known = sorted({x for x in numbers if x is not None})
    if None in numbers:
        return Axis(key, names)
    whole = all(x.is_integer() for x in known)
    return Axis(key, tuple(known), known[0], known[-1], _is_logarithmic(known), whole)


def _is_logarithmic(values: Sequence[float]) -> bool:
    if values[0] <= 0 or len(values) < 2:
        return False
    if len(values) == 2:
        return values[1] / values[0] >= EVEN

    def uneven(x: Sequence[float]) -> float:
        gaps = [b - a for a, b in pairwise(x)]
        return statistics.pstdev(gaps) / statistics.fmean(gaps)

    return uneven([math.log(x) for x in values]) < uneven(values)


# ------------------------------------------------------------------------------------------------ trials


def _first(record: Record, folder: Path) -> str:
    """The directory of the trial that a run belongs to, seen from the sweep's."""
    parts = record.path.relative_to(folder).parts
    return parts[0] if parts else ""


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each trial; one whose directory is called otherwise gets the next that is free."""
    found = {n: int(n) for n in names if n.isascii() and n.isdecimal() and len(n) <= MOST_DIGITS}
    free = max(found.values(), default=-1) + 1
    others = [n for n in names if n not in found]
    return found | {name: free + i for i, name in enumerate(others)}


def _ordered(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    return tuple(sorted(trials, key=lambda t: t.number))


Judge = Callable[[Sequence[Record]], tuple[str, float | None, float | None]]


def _judge(objective: str, repeats: int, statistic: Statistic) -> Judge:
    """What tells state, value and standard deviation of a trial from its runs."""

    def judge(runs: Sequence[Record]) -> tuple[str, float | None, float | None]:
        states = {r.status for r in runs}
        state = next(s for s in PRECEDENCE if s in states)
        decided = len(runs) >= repeats or (state == "diverged" and statistic == "mean")
        if state not in ("done", "diverged"):
            return "failed" if state == "damaged" else state, None, None
        if not decided:
            return "interrupted", None, None
        if not all(_is_value(r.metrics.get(objective, "")) for r in runs if r.status == "done"):
            return state, None, None
        values = objectives([(r.status, {objective: number(r.metrics.get(objective))}) for r in runs], objective)
        value = middle(values, statistic)
        finite = [v for v in values if math.isfinite(v)]
        sd = statistics.stdev(finite) if len(finite) > 1 else None
        return ("done", value, sd) if math.isfinite(value) else ("diverged", None, None)

    return judge


def _is_value(found: Any) -> bool:
    """Whether it is a number, or what is written of one that is not finite; not where a file is damaged."""
    return found is None or (isinstance(found, float) and not math.isfinite(found)) or number(found) is not None


def _trial(number: int, path: Path, runs: Sequence[Record], axes: Sequence[Axis], judge: Judge) -> Trial:
    settings = next((r.settings for r in runs if r.settings), {})
    point = {a.key: v for a in axes if (v := a.value(settings)) is not None}
    return Trial(number, path, tuple(runs), point, *judge(runs))


def _objective(said: str, found: Sequence[Record]) -> str:
    """The metric that is compared: that of the configuration, or train/loss where no run has it."""
    has = {name for r in found for name in (said, "train/loss") if r.metrics.get(name) is not None}
    return "train/loss" if has == {"train/loss"} else said


def _described(folder: Path, found: Sequence[Record], notice: str) -> Search:
    """A sweep by what varies among its runs: those that differ in the seed alone are repeats of one trial."""
    names = [name for name in varying(found) if name not in ("seed", "objective")]
    axes = [choice(name, [canonical(r.settings[name]) for r in found if name in r.settings]) for name in names]
    said = Counter(str(r.settings["objective"]) for r in found if "objective" in r.settings).most_common(1)
    objective = _objective(said[0][0] if said else "val/loss", found)
    groups: dict[Any, list[Record]] = {}
    for r in found:
        at = tuple(canonical(r.settings[n]) if n in r.settings else None for n in names) if r.settings else r.name
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
    return Search(
        folder, tuple(axes), objective, higher_is_better(objective), _ordered(trials),
        repeats=repeats, seeds=seeds, notice=notice,
    )  # fmt: skip

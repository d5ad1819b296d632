"""Searches read from disk: their axes and the outcome of each trial.

A trial is one configuration of the search space. It has one run per repeat (seeds, folds). Its value is the mean or the
median of the objective over its runs. Everything is read from the runs and from sweep.json, which is written before the
first run. A sweep of an earlier version has no such file; its axes are the settings that vary among its runs.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.analysis.run_table import RunRecord, find_varying_settings, read_runs
from dlopt.analysis.search_axis import SearchAxis, Value, canonicalize, make_choice_axis, parse_number
from dlopt.metrics.names import Statistic, higher_is_better
from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage import safe_read

FORMAT = 1
"""Format version of sweep.json."""
MAX_BYTES = 1 << 20
"""Largest size of sweep.json; a grid of ten thousand values takes a fifth of it."""
MAX_DIGITS = 9
"""Largest number of digits of a trial number."""


PRECEDENCE = ("running", "damaged", "failed", "dead", "interrupted", "pruned", "diverged", "done")
"""The state of a trial is the first of these that one of its runs has; damaged counts as failed."""
ENDED_STATES = ("done", "diverged", "pruned", "failed")
"""States of trials that are not repeated."""


@dataclass(frozen=True)
class TrialRecord:
    """One configuration of the search space and its runs.

    number   position in the order of trials
    state    running, done, pruned, diverged, failed, dead or interrupted; also interrupted if repeats are missing
    value    the objective; None unless the trial is done and has one
    sd       sample standard deviation over repeats; None for fewer than two
    seconds  training time over all repeats
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
    """A sweep: its axes and its trials in the order of their numbers.

    n_planned         number of planned trials; None if unknown
    repeats           runs per trial
    fixed_overrides   overrides common to all trials; None if unknown
    storage           address of the study
    notice            problem with sweep.json; empty if there is none
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
        """Finished trials with a value, best first; of equal ones the earlier comes first."""
        valued = [(t.value, t) for t in self.trials if t.value is not None]
        return [t for _, t in sorted(valued, key=lambda p: (-p[0] if self.higher_is_better else p[0], p[1].number))]

    @property
    def best(self) -> TrialRecord | None:
        return self.ranked_trials[0] if self.ranked_trials else None

    @property
    def states(self) -> Counter[str]:
        return Counter(t.state for t in self.trials)

    def axis(self, key: str) -> SearchAxis:
        """Return the axis of a key. Raises KeyError if it was not searched."""
        return {a.key: a for a in self.axes}[key]


@dataclass(frozen=True)
class _Plan:
    """Content of sweep.json."""

    axes: tuple[SearchAxis, ...]
    objective: str
    higher_is_better: bool
    more: dict[str, Any] = field(default_factory=dict)


def read_search(folder: Path) -> SearchRecord:
    """Read the search in a folder."""
    return build_search(folder, read_runs(folder))


def build_search(folder: Path, found: Sequence[RunRecord]) -> SearchRecord:
    """Build the search in a folder from its runs."""
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


# ------------------------------------------------------------------------------------------------ sweep.json


def _plan(content: Mapping[str, Any], file: Path) -> _Plan:
    """Check the content of sweep.json. Raises UnreadableFile with the file and the problem."""

    def check(right: bool, said: str) -> None:
        if not right:
            raise safe_read.UnreadableFile(file, said)

    def texts(key: str) -> tuple[str, ...]:
        found = content.get(key, [])
        check(isinstance(found, list) and all(isinstance(x, str) for x in found), f"'{key}' is not a list of text")
        return tuple(safe_read.to_printable(x) for x in found)

    def count(key: str, least: int) -> int:
        found = content.get(key, 0)
        check(_is_count(found) and found >= least, f"'{key}' must be a whole number of at least {least}")
        return int(found)

    check(
        content.get("format") == FORMAT,
        f"has format {content.get('format')}; this version of dlopt reads format {FORMAT}",
    )
    objective, direction = content.get("objective"), content.get("direction")
    check(isinstance(objective, str) and objective != "", "'objective' is not a metric")
    check(direction in ("minimize", "maximize"), "'direction' is neither minimize nor maximize")
    entries, seeds = content.get("axes"), content.get("seeds", [])
    check(isinstance(entries, list) and all(isinstance(e, dict) for e in entries), "'axes' is not a list of axes")
    check(isinstance(seeds, list), "'seeds' is not a list")
    statistic = content.get("statistic", "mean")
    check(statistic in ("mean", "median"), "'statistic' is neither mean nor median")
    axes = []
    for i, entry in enumerate(entries or ()):
        axis = _axis(entry)
        if axis is None:
            raise safe_read.UnreadableFile(file, f"axis {i} is neither a choice with values nor an interval with ends")
        axes.append(axis)
    check(len({a.key for a in axes}) == len(axes), "has two axes with one key")
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
    """Return the axis that an entry of sweep.json describes, or None if the entry is not valid."""
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


# ------------------------------------------------------------------------------------------------ trials


def _first(record: RunRecord, folder: Path) -> str:
    """Return the directory of the trial of a run, relative to the sweep."""
    parts = record.path.relative_to(folder).parts
    return parts[0] if parts else ""


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """Return the number of each trial. A directory without a number gets the next free one."""
    found = {n: int(n) for n in names if n.isascii() and n.isdecimal() and len(n) <= MAX_DIGITS}
    free = max(found.values(), default=-1) + 1
    others = [n for n in names if n not in found]
    return found | {name: free + i for i, name in enumerate(others)}


def _sort_trials(trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    return tuple(sorted(trials, key=lambda t: t.number))


Judge = Callable[[Sequence[RunRecord]], tuple[str, float | None, float | None]]


def _judge(objective: str, repeats: int, statistic: Statistic) -> Judge:
    """Return a function from the runs of a trial to its state, value and standard deviation."""

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
    """Whether it is a number or the record of a non-finite one, as opposed to damaged content."""
    return found is None or (isinstance(found, float) and not math.isfinite(found)) or parse_number(found) is not None


def _trial(number: int, path: Path, runs: Sequence[RunRecord], axes: Sequence[SearchAxis], judge: Judge) -> TrialRecord:
    settings = next((r.settings for r in runs if r.settings), {})
    point = {a.key: v for a in axes if (v := a.value(settings)) is not None}
    return TrialRecord(number, path, tuple(runs), point, *judge(runs))


def _objective(said: str, found: Sequence[RunRecord]) -> str:
    """Return the configured metric, or train/loss if no run has it."""
    has = {name for r in found for name in (said, "train/loss") if r.metrics.get(name) is not None}
    return "train/loss" if has == {"train/loss"} else said


def _infer_search(folder: Path, found: Sequence[RunRecord], notice: str) -> SearchRecord:
    """Infer a sweep from the settings that vary. Runs that differ only in the seed are repeats of one trial."""
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

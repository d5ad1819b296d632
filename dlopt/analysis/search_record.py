"""Searches read from disk: their axes and the outcome of each trial.

A trial is one configuration of the search space. It has one run per repeat (seeds, folds). Its value is the mean or the
median of the objective over its runs. Everything is read from the runs and from sweep.json, which is written before the
first run. A sweep of an earlier version has no such file; its axes are the settings that vary among its runs.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.analysis.run_table import RunRecord, find_varying_settings, merge_directions, read_runs, sort_runs
from dlopt.analysis.search_axis import SearchAxis, Value, canonicalize, make_choice_axis, parse_number
from dlopt.config.schema.signature import describe_mismatch
from dlopt.metrics.names import Statistic, higher_is_better
from dlopt.ranges import Range
from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage import safe_read

FORMAT = 1
"""Format version of sweep.json."""
MAX_BYTES = 1 << 20
"""Largest size of sweep.json; a grid of ten thousand values takes a fifth of it."""
REPEATED = ("seed", "validation.fold")
"""Keys of which several values repeat one configuration."""
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
    conditions        the options to which a key applies, as optimizer=momentum; without the keys of all trials
    config_dir        the user's folder of options; empty if none was given
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
    statistic: Statistic = "mean"
    fixed_overrides: tuple[str, ...] | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    config_dir: str = ""
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


def read_search(folder: Path) -> SearchRecord:
    """Read the search in a folder."""
    return build_search(folder, read_runs(folder))


def find_best_run(folder: Path) -> tuple[RunRecord | None, str]:
    """Return the run of a search that is done and has the best objective, if there is one, and the objective."""
    search = read_search(folder)
    runs = [r for t in search.trials for r in t.runs if r.status == "done"]
    ranked = sort_runs(search.objective, [r for r in runs if parse_number(r.metrics.get(search.objective)) is not None])
    if search.higher_is_better != higher_is_better(search.objective, merge_directions(runs)):
        ranked.reverse()
    return next(iter(ranked), None), search.objective


def find_best_ensemble(folder: Path) -> tuple[list[RunRecord], float, str]:
    """Return the runs that are done of the best configuration of a search, its value, and the objective.

    Trials that differ only in their seed or fold are of one configuration; its value is over all of their runs.
    """
    search = read_search(folder)
    groups: dict[Any, list[RunRecord]] = {}
    for trial in search.trials:
        point = tuple(sorted((key, str(value)) for key, value in trial.point.items() if key not in REPEATED))
        groups.setdefault(point, []).extend(run for run in trial.runs if run.status in ("done", "diverged"))

    def measure(runs: Sequence[RunRecord]) -> float:
        endings = [(run.status, {k: parse_number(v) for k, v in run.metrics.items()}) for run in runs]
        values = collect_objectives(endings, search.objective, higher_is_better=search.higher_is_better)
        return aggregate_values(values, search.statistic)

    found = [runs for runs in groups.values() if any(run.status == "done" for run in runs)]
    if not found:
        return [], math.nan, search.objective
    best = (max if search.higher_is_better else min)(found, key=measure)
    return [run for run in best if run.status == "done"], measure(best), search.objective


def build_search(folder: Path, runs: Sequence[RunRecord]) -> SearchRecord:
    """Build the search in a folder from its runs."""
    try:
        fields = _read_sweep_file(folder / SWEEP_FILE)
    except FileNotFoundError:
        return _infer_search(folder, runs, "")
    except (ValueError, OSError) as error:
        return _infer_search(folder, runs, safe_read.to_printable(str(error)))
    fields["objective"] = _choose_objective(fields["objective"], runs)
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        name = next(iter(run.path.relative_to(folder).parts), "")
        if not (folder / name / SWEEP_FILE).is_file():  # a run of another search
            groups.setdefault(name, []).append(run)
    numbers = _number_trials(list(groups))
    rule = [fields[key] for key in ("axes", "objective", "higher_is_better", "repeats", "statistic")]
    trials = [_make_trial(numbers[name], folder / name, group, *rule) for name, group in groups.items()]
    return SearchRecord(folder, trials=tuple(sorted(trials, key=lambda t: t.number)), **fields)


# ------------------------------------------------------------------------------------------------ sweep.json

_HINTS: dict[str, Any] = {
    "objective": str, "direction": Literal["minimize", "maximize"], "axes": list[dict], "seeds": list,
    "folds": Annotated[int, Range(ge=0)], "trials": Annotated[int, Range(ge=0)], "statistic": Statistic,
    "fixed": list[str], "command": list[str], "sampler": str, "storage": str, "conditions": dict[str, str],
    "config_dir": str | None,
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "seeds": [], "folds": 0, "trials": 0, "statistic": "mean", "fixed": [], "command": [], "sampler": "grid",
    "storage": "", "conditions": {}, "config_dir": None,
}  # fmt: skip


def _read_sweep_file(file: Path) -> dict[str, Any]:
    """Return the fields of SearchRecord that sweep.json states. Raises UnreadableFile with the file and the problem."""
    content = _DEFAULTS | safe_read.read_json(file, MAX_BYTES)
    if content.get("format") != FORMAT:
        reason = f"has format {content.get('format')}; this version of dlopt reads format {FORMAT}"
        raise safe_read.UnreadableFile(file, reason)
    for key, hint in _HINTS.items():
        if mismatch := describe_mismatch(content.get(key), hint):
            raise safe_read.UnreadableFile(file, f"{key}: {mismatch[:200]}")
    axes = tuple(_make_axis(entry) for entry in content["axes"])
    if None in axes:
        reason = f"axis {axes.index(None)} is neither a choice with values nor an interval with ends"
        raise safe_read.UnreadableFile(file, reason)
    if len({a.key for a in axes if a}) < len(axes) or not content["objective"]:
        raise safe_read.UnreadableFile(file, "has two axes with one key, or no objective")
    seeds, folds = len(content["seeds"]), content["folds"]
    texts = {
        key: safe_read.to_printable(content[key] or "") for key in ("objective", "sampler", "storage", "config_dir")
    }
    lists = {key: tuple(map(safe_read.to_printable, content[key])) for key in ("fixed", "command")}
    conditions = {safe_read.to_printable(k): safe_read.to_printable(v) for k, v in content["conditions"].items()}
    return {
        "axes": axes, "higher_is_better": content["direction"] == "maximize", "n_planned": content["trials"] or None,
        "repeats": max(1, seeds) * max(1, folds), "seeds": seeds, "folds": folds, "statistic": content["statistic"],
        "fixed_overrides": lists["fixed"], "command": lists["command"], "conditions": conditions, **texts,
    }  # fmt: skip


def _make_axis(entry: Mapping[str, Any]) -> SearchAxis | None:
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


def _number_trials(names: Sequence[str]) -> dict[str, int]:
    """Return the number of each trial. A directory without a number gets the next free one."""
    numbers = {n: int(n) for n in names if n.isascii() and n.isdecimal() and len(n) <= MAX_DIGITS}
    free = max(numbers.values(), default=-1) + 1
    return numbers | {name: free + i for i, name in enumerate(n for n in names if n not in numbers)}


def _make_trial(
    number: int,
    path: Path,
    runs: Sequence[RunRecord],
    axes: Sequence[SearchAxis],
    objective: str,
    higher_is_better: bool,
    repeats: int = 1,
    statistic: Statistic = "mean",
) -> TrialRecord:
    """Return the trial of these runs with its state, value and standard deviation."""
    settings = next((r.settings for r in runs if r.settings), {})
    point = {a.key: v for a in axes if (v := a.value(settings)) is not None}
    states = {r.status for r in runs}
    state = next(s for s in PRECEDENCE if s in states)
    value = sd = None
    if state == "damaged":
        state = "failed"
    elif state in ("done", "diverged"):
        if len(runs) < repeats and not (state == "diverged" and statistic == "mean"):
            state = "interrupted"
        elif all(_is_recorded(r.metrics.get(objective, "")) for r in runs if r.status == "done"):
            endings = [(r.status, {objective: parse_number(r.metrics.get(objective))}) for r in runs]
            values = collect_objectives(endings, objective, higher_is_better=higher_is_better)
            value = aggregate_values(values, statistic)
            finite = [v for v in values if math.isfinite(v)]
            sd = statistics.stdev(finite) if len(finite) > 1 else None
            state, value, sd = ("done", value, sd) if math.isfinite(value) else ("diverged", None, None)
    return TrialRecord(number, path, tuple(runs), point, state, value, sd)


def _is_recorded(value: Any) -> bool:
    """Return whether a metric is a number or the record of a non-finite one, as opposed to missing or damaged."""
    return value is None or (isinstance(value, float) and not math.isfinite(value)) or parse_number(value) is not None


def _choose_objective(metric: str, runs: Sequence[RunRecord]) -> str:
    """Return the configured metric, or train/loss if only that is recorded."""
    recorded = {name for r in runs for name in (metric, "train/loss") if r.metrics.get(name) is not None}
    return "train/loss" if recorded == {"train/loss"} else metric


def _infer_search(folder: Path, runs: Sequence[RunRecord], notice: str) -> SearchRecord:
    """Infer a sweep from the settings that vary. Runs that differ only in the seed are repeats of one trial."""
    names = [name for name in find_varying_settings(runs) if name not in ("seed", "objective")]
    axes = [
        make_choice_axis(name, [canonicalize(r.settings[name]) for r in runs if name in r.settings]) for name in names
    ]
    metrics = Counter(str(r.settings["objective"]) for r in runs if "objective" in r.settings).most_common(1)
    objective = _choose_objective(metrics[0][0] if metrics else "val/loss", runs)
    higher = higher_is_better(objective, merge_directions(runs))
    groups: dict[Any, list[RunRecord]] = {}
    for r in runs:
        point = tuple(canonicalize(r.settings[n]) if n in r.settings else None for n in names)
        groups.setdefault(point if r.settings else r.name, []).append(r)
    firsts = [min(group, key=lambda r: (len(r.name), r.name)).path for group in groups.values()]
    numbers = _number_trials([str(path.relative_to(folder)) for path in firsts])
    repeats = max((len({str(r.settings.get("seed")) for r in group}) for group in groups.values()), default=1)
    trials = [
        _make_trial(numbers[str(path.relative_to(folder))], path, group, axes, objective, higher)
        for path, group in zip(firsts, groups.values(), strict=True)
    ]
    return SearchRecord(
        folder, tuple(axes), objective, higher, tuple(sorted(trials, key=lambda t: t.number)),
        repeats=repeats, seeds=repeats if repeats > 1 else 0, notice=notice,
    )  # fmt: skip

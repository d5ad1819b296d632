"""What a search says of its hyperparameters: their effects, their importance, where the best lies, where runs diverge.

Of trial i let x_i be the point and y_i the value. Trials that are done count; what becomes of others is said with each
function.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dlopt.analysis.search_axis import SearchAxis, Value
from dlopt.analysis.search_record import SearchRecord, TrialRecord

BINS = 5
"""Into which an interval is cut."""
BORDER = 0.05
"""Share of an interval at each end within which the best is said to lie on the border."""
MIN_GRID_VALUES = 3
"""Values that a grid has at least where its ends are borders: of two, the best is always one."""
MIN_TRIALS = 10
"""Trials that importance is told from at least."""
MIN_TRIALS_PER_AXIS = 4
"""Trials for each hyperparameter that it is told from at least."""
MAX_TRIALS = 300
"""Trials that it is told from at most: a forest of them takes 1.5 s, and one of a thousand 8 s."""
TREES = 64
SEED = 0


# ------------------------------------------------------------------------------------------------ effects


@dataclass(frozen=True)
class Level:
    """The trials with one value of a hyperparameter, or with one in [low, high); the last bin has its end too.

    name   as it is shown
    at     where it is drawn: the number, the middle of the bin, or the place of a choice among the others: 0, 1, ...
    low, high   the ends of a bin; None of a single value
    """

    name: str
    position: float
    trials: tuple[TrialRecord, ...]
    low: float | None = None
    high: float | None = None

    @cached_property
    def values(self) -> list[float]:
        """Those of trials that are done."""
        return [t.value for t in self.trials if t.value is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over trials; of one trial that over its repeats; None where there is none."""
        if len(self.values) > 1:
            return statistics.stdev(self.values)
        return next((t.sd for t in self.trials if t.value is not None), None)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """Of the values v_0 <= ... <= v_(n-1) those at (n-1)/4 and 3(n-1)/4, linear in between."""
        if len(self.values) < 2:
            return None
        lower, _, upper = statistics.quantiles(self.values, n=4, method="inclusive")
        return lower, upper

    def best(self, higher: bool) -> float | None:
        return (max if higher else min)(self.values, default=None)

    @property
    def n_diverged(self) -> int:
        return sum(t.state == "diverged" for t in self.trials)

    @property
    def n_ended(self) -> int:
        """Trials that are done or have diverged."""
        return sum(t.state in ("done", "diverged") for t in self.trials)


def group_by_level(axis: SearchAxis, trials: Sequence[TrialRecord]) -> list[Level]:
    """The trials by the values of one hyperparameter, or by bins of equal width in its own scale.

    An interval [a, b] has bins k = 0, ..., 4, each with the x for which floor(5 (s(x) - s(a)) / (s(b) - s(a))) is k,
    where s is the identity or the logarithm; so has a grid of more than 12 numbers, and an interval of at most 12 whole
    ones has none. Levels without a trial are left out, as are trials that have no such hyperparameter.
    """
    having = [(t.point[axis.key], t) for t in trials if axis.key in t.point]
    if axis.is_binned:
        return _bins(axis, having)
    found: dict[Value, list[TrialRecord]] = {}
    for value, trial in having:
        found.setdefault(value, []).append(trial)
    if axis.is_numeric:
        return [Level(axis.format_value(v), float(v), tuple(found[v])) for v in sorted(found)]
    order = [*(v for v in axis.values if v in found), *(v for v in found if v not in axis.values)]
    return [Level(str(v), float(i), tuple(found[v])) for i, v in enumerate(order)]


def _bins(axis: SearchAxis, having: Sequence[tuple[Value, TrialRecord]]) -> list[Level]:
    assert axis.low is not None and axis.high is not None
    low, high = axis.to_scale(axis.low), axis.to_scale(axis.high)
    found: dict[int, list[TrialRecord]] = {}
    for value, trial in having:
        share = axis.share(float(value))
        found.setdefault(min(max(math.floor(BINS * min(max(share, 0.0), 1.0)), 0), BINS - 1), []).append(trial)

    def plain(scaled: float) -> float:
        return 10.0**scaled if axis.log else scaled

    made = []
    for k, inside in sorted(found.items()):
        a, middle, b = (plain(low + (high - low) * (k + part) / BINS) for part in (0.0, 0.5, 1.0))
        ends = (math.ceil(a), math.floor(b) if k == BINS - 1 else math.ceil(b) - 1) if axis.whole else (a, b)
        made.append(Level("..".join(f"{float(f'{end:.3g}'):g}" for end in ends), middle, tuple(inside), a, b))
    return made


# ------------------------------------------------------------------------------------------------ importance


def compute_importance(search: SearchRecord) -> tuple[dict[str, float], str]:
    """The share of each hyperparameter in how good a trial is, the largest first, with a line of how it was found.

    Functional analysis of variance (Hutter, Hoos and Leyton-Brown, ICML 2014) of a random forest fitted
    to the ranks of the trials: of f with f(x_i) = rank of y_i let f_j be the mean over all hyperparameters but j; the
    share of j is Var f_j over the sum of these variances. Ranks make it the same for a loss and its logarithm. A trial
    that diverged has the worst rank; pruned, failed and unfinished ones do not count.

    Of more than 300 trials as many are taken, evenly from all. There are no shares where there are fewer trials than
    10, or than 4 for each hyperparameter; the line says so.
    """
    counted = [t for t in search.trials if t.value is not None or t.state == "diverged"]
    varied = [a for a in search.axes if len({t.point.get(a.key) for t in counted}) > 1]
    axes = [a for a in varied if all(a.key in t.point for t in counted)]
    fewest = max(MIN_TRIALS, MIN_TRIALS_PER_AXIS * len(axes))
    if len(axes) < 2:
        return {}, ""
    if len(counted) < fewest:
        return {}, f"importance is told from {fewest} trials on that are done or diverged; there are {len(counted)}"
    counted = (
        [counted[i * len(counted) // MAX_TRIALS] for i in range(MAX_TRIALS)] if len(counted) > MAX_TRIALS else counted
    )
    ranks = _ranks([t.value for t in counted], search.higher_is_better)
    if len(set(ranks)) == 1:
        return {}, f"importance cannot be told: every trial has the same {search.objective}"
    found = _fanova(axes, counted, ranks)
    said = f"fANOVA of a random forest on the ranks of {len(counted)} trials"
    said += ", diverged ones as the worst" if any(t.value is None for t in counted) else ""
    without = [a.key for a in varied if a not in axes]
    said += f", without {', '.join(without)}, which some of them lack" if without else ""
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))), said


def _ranks(values: Sequence[float | None], higher: bool) -> list[float]:
    """0 for the best, the mean of their places for equal ones; None is worse than any."""
    keys = [math.inf if v is None else -v if higher else v for v in values]
    places: dict[float, list[int]] = {}
    for place, key in enumerate(sorted(keys)):
        places.setdefault(key, []).append(place)
    mean = {key: statistics.fmean(found) for key, found in places.items()}
    return [mean[key] for key in keys]


def _fanova(axes: Sequence[SearchAxis], trials: Sequence[TrialRecord], ranks: Sequence[float]) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds: dict[str, BaseDistribution] = {}
    for axis in axes:
        values = [t.point[axis.key] for t in trials]
        if axis.is_numeric:
            ends = [float(v) for v in values if v is not None]
            kinds[axis.key] = FloatDistribution(min(ends), max(ends), log=axis.log)
        else:
            kinds[axis.key] = CategoricalDistribution(sorted({str(v) for v in values}))
    study = optuna.create_study()
    points = [{axis.key: t.point[axis.key] for axis in axes} for t in trials]
    study.add_trials(
        [optuna.create_trial(params=p, distributions=kinds, value=r) for p, r in zip(points, ranks, strict=True)]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


# ------------------------------------------------------------------------------------------------ warnings


@dataclass(frozen=True)
class Border:
    """The best trial lies on the border of a numeric axis: at its larger end, or at its smaller one."""

    axis: SearchAxis
    value: float
    upper: bool


def find_borders(search: SearchRecord) -> list[Border]:
    """Where the best trial lies on the border, beyond which there may be better ones.

    On a grid of at least three numbers the border is its first and its last; of an interval it is the 5 % at each end,
    in the axis' own scale. Below 0 nothing is proposed, which few hyperparameters may be, nor more data: data.* is what
    is learned, and not how.
    """
    best, found = search.best, []
    for axis in search.axes if best is not None else ():
        value = best.point.get(axis.key) if best is not None else None
        if not isinstance(value, float) or axis.key.startswith("data.") or axis.low == axis.high:
            continue
        if not axis.is_interval and len(axis.values) < MIN_GRID_VALUES:
            continue
        margin = BORDER if axis.is_interval else 0.0
        share = axis.share(value)
        if share >= 1.0 - margin:
            found.append(Border(axis, value, True))
        elif share <= margin and axis.low != 0.0:
            found.append(Border(axis, value, False))
    return found


@dataclass(frozen=True)
class Divergence:
    """Where trials diverge: with neighbouring levels of one axis, `first` to `last`.

    diverged   such trials there, of `ended` that are done or diverged
    """

    axis: SearchAxis
    first: Level
    last: Level
    n_diverged: int
    n_ended: int


def find_divergence(search: SearchRecord) -> Divergence | None:
    """The range of one hyperparameter in which divergence concentrates, if it does.

    Of every axis the level, or the run of neighbouring levels from one end on of a numeric axis, that best tells
    diverged trials from those that are done: the largest difference of the share of all diverged trials that lie
    there and the share of all done trials that do (Youden's J). It is said from J = 0.5 and three diverged trials on.
    """
    trials = [t for t in search.trials if t.state in ("done", "diverged")]
    bad = sum(t.state == "diverged" for t in trials)
    good = len(trials) - bad
    found: tuple[float, Divergence] | None = None
    if bad < 3 or not good:
        return None
    for axis in search.axes:
        known = group_by_level(axis, trials)
        spans = [(i, i) for i in range(len(known))]
        if axis.is_numeric:
            spans = [(0, i) for i in range(len(known))] + [(i, len(known) - 1) for i in range(1, len(known))]
        for first, last in spans:
            inside = Counter(t.state for level in known[first : last + 1] for t in level.trials)
            parted = inside["diverged"] / bad - inside["done"] / good
            if parted >= 0.5 and (found is None or parted > found[0]):
                at = Divergence(axis, known[first], known[last], inside["diverged"], inside.total())
                found = parted, at
    return found[1] if found else None


def count_level_with_best(search: SearchRecord) -> int:
    """How many trials, the best among them, lie within one standard deviation over repeats of the best."""
    best = search.best
    if best is None or best.value is None or best.sd is None:
        return 0
    return sum(abs(t.value - best.value) <= best.sd for t in search.ranked_trials if t.value is not None)

"""Effects and importance of searched hyperparameters, borders at the best trial, and where trials diverge."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dlopt.analysis.search_axis import SearchAxis, Value
from dlopt.analysis.search_record import SearchRecord, TrialRecord

BINS = 5
"""Number of bins of an interval."""
BORDER = 0.05
"""Fraction of an interval at each end that counts as its border."""
MIN_GRID_VALUES = 3
"""Smallest grid that has borders: of two values the best is always at an end."""
MIN_TRIALS = 10
"""Smallest number of trials for importances."""
MIN_TRIALS_PER_AXIS = 4
"""Smallest number of trials per hyperparameter for importances."""
MAX_TRIALS = 300
"""Subsample above this many trials: fitting a forest takes 1.5 s for 300 and 8 s for 1,000."""
TREES = 64
SEED = 0


# ------------------------------------------------------------------------------------------------ effects


@dataclass(frozen=True)
class Level:
    """The trials with one value of a hyperparameter, or with values in a bin.

    name       label
    position   place on the axis: the number, the middle of the bin, or the index of a choice
    low, high  ends of the bin [low, high), the last bin includes its end; None for a single value
    """

    name: str
    position: float
    trials: tuple[TrialRecord, ...]
    low: float | None = None
    high: float | None = None

    @cached_property
    def values(self) -> list[float]:
        """Values of the trials that have one."""
        return [t.value for t in self.trials if t.value is not None]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over trials; for one trial, over its repeats."""
        if len(self.values) > 1:
            return statistics.stdev(self.values)
        return next((t.sd for t in self.trials if t.value is not None), None)

    def best(self, higher: bool) -> float | None:
        return (max if higher else min)(self.values, default=None)

    @property
    def n_diverged(self) -> int:
        return sum(t.state == "diverged" for t in self.trials)

    @property
    def n_ended(self) -> int:
        """Number of trials that are done or have diverged."""
        return sum(t.state in ("done", "diverged") for t in self.trials)


def group_by_level(axis: SearchAxis, trials: Sequence[TrialRecord]) -> list[Level]:
    """Group trials by the values of one hyperparameter, or by bins of equal width on the scale of its axis.

    An interval [a, b] has bins k = 0, ..., 4: bin k holds the x with floor(5 (s(x) - s(a)) / (s(b) - s(a))) = k, where
    s is the identity or the logarithm. A grid of more than 12 numbers is binned too; an interval of at most 12 whole
    numbers is not. Levels without trials, and trials without this hyperparameter, are omitted.
    """
    groups: defaultdict[Value, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if axis.key in trial.point:
            value = trial.point[axis.key]
            groups[_find_bin(axis, float(value)) if axis.is_binned else value].append(trial)
    if axis.is_binned:
        return [_make_bin(axis, int(k), groups[k]) for k in sorted(groups)]
    if axis.is_numeric:
        return [Level(axis.format_value(v), float(v), tuple(groups[v])) for v in sorted(groups)]
    order = [v for v in dict.fromkeys((*axis.values, *groups)) if v in groups]
    return [Level(str(v), float(i), tuple(groups[v])) for i, v in enumerate(order)]


def _find_bin(axis: SearchAxis, value: float) -> int:
    position = round(BINS * axis.share(value), 9)  # so that rounding does not move a value on an edge below it
    return math.floor(min(max(position, 0), BINS - 1))


def _make_bin(axis: SearchAxis, k: int, trials: Sequence[TrialRecord]) -> Level:
    assert axis.low is not None and axis.high is not None
    low, high = axis.to_scale(axis.low), axis.to_scale(axis.high)
    scaled = [low + (high - low) * (k + part) / BINS for part in (0.0, 0.5, 1.0)]
    a, middle, b = (10.0**x if axis.log else x for x in scaled)
    ends = (math.ceil(a), math.floor(b) if k == BINS - 1 else math.ceil(b) - 1) if axis.whole else (a, b)
    return Level("..".join(f"{float(f'{end:.3g}'):g}" for end in ends), middle, tuple(trials), a, b)


# ------------------------------------------------------------------------------------------------ importance


def compute_importance(search: SearchRecord) -> tuple[dict[str, float], str]:
    """Return the importance of each hyperparameter, largest first, and a line that says how it was computed.

    Functional analysis of variance (Hutter, Hoos and Leyton-Brown, ICML 2014) of a random forest f fitted to the ranks
    of the trials, f(x_i) = rank of y_i. Let f_j be the mean of f over all hyperparameters but j; the importance of j is
    Var f_j over the sum of these variances. Ranks give a loss and its logarithm the same importances. A trial that
    diverged has the worst rank; pruned, failed and unfinished trials do not count.

    Of more than 300 trials an evenly spaced subset is used. Importances need 10 trials, and 4
    per hyperparameter; with fewer, the line says so.
    """
    trials = [t for t in search.trials if t.value is not None or t.state == "diverged"]
    varied = [a for a in search.axes if len({t.point.get(a.key) for t in trials}) > 1]
    axes = [a for a in varied if all(a.key in t.point for t in trials)]
    if len(axes) < 2:
        return {}, ""
    least = max(MIN_TRIALS, MIN_TRIALS_PER_AXIS * len(axes))
    if len(trials) < least:
        return {}, f"importance needs at least {least} trials that are done or diverged, there are {len(trials)}"
    count = min(len(trials), MAX_TRIALS)
    trials = [trials[i * len(trials) // count] for i in range(count)]
    ranks = _rank([t.value for t in trials], search.higher_is_better)
    if len(set(ranks)) == 1:
        return {}, f"there is no importance: every trial has the same {search.objective}"
    shares = _compute_fanova(axes, trials, ranks)
    method = f"fANOVA of a random forest on the ranks of {len(trials)} trials"
    method += ", diverged ones as the worst" if any(t.value is None for t in trials) else ""
    missing = [a.key for a in varied if a not in axes]
    method += f", without {', '.join(missing)}, which some of them lack" if missing else ""
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))), method


def _rank(values: Sequence[float | None], higher: bool) -> list[float]:
    """Return ranks from 0 for the best; equal values share their mean rank, and None is the worst."""
    from scipy.stats import rankdata

    ranks: list[float] = (rankdata([math.inf if v is None else -v if higher else v for v in values]) - 1.0).tolist()
    return ranks


def _compute_fanova(
    axes: Sequence[SearchAxis], trials: Sequence[TrialRecord], ranks: Sequence[float]
) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, BaseDistribution] = {}
    for axis in axes:
        values = [t.point[axis.key] for t in trials]
        if axis.is_numeric:
            numbers = [float(v) for v in values]
            distributions[axis.key] = FloatDistribution(min(numbers), max(numbers), log=axis.log)
        else:
            distributions[axis.key] = CategoricalDistribution(sorted({str(v) for v in values}))
    study = optuna.create_study()
    points = [{axis.key: t.point[axis.key] for axis in axes} for t in trials]
    study.add_trials(
        [
            optuna.create_trial(params=p, distributions=distributions, value=r)
            for p, r in zip(points, ranks, strict=True)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


# ------------------------------------------------------------------------------------------------ warnings


@dataclass(frozen=True)
class Border:
    """A numeric axis with the best trial on its border; upper: at the larger end."""

    axis: SearchAxis
    value: float
    upper: bool


def find_borders(search: SearchRecord) -> list[Border]:
    """Return the axes with the best trial on their border: there may be better trials beyond it.

    The border of a grid of at least three numbers is its first and its last number. The border of an interval is the
    5 % at each end, on the scale of the axis. The lower border at 0 is omitted, since few hyperparameters can be
    negative. So are keys of data.*, which select what is learned.
    """
    borders: list[Border] = []
    point = search.best.point if search.best is not None else {}
    for axis in search.axes:
        value = point.get(axis.key)
        if not isinstance(value, float) or axis.key.startswith("data.") or axis.low == axis.high:
            continue
        if not axis.is_interval and len(axis.values) < MIN_GRID_VALUES:
            continue
        margin = BORDER if axis.is_interval else 0.0
        share = axis.share(value)
        if share >= 1.0 - margin:
            borders.append(Border(axis, value, True))
        elif share <= margin and axis.low != 0.0:
            borders.append(Border(axis, value, False))
    return borders


@dataclass(frozen=True)
class Divergence:
    """The neighbouring levels of one axis, `first` to `last`, at which trials diverge.

    n_diverged   number of diverged trials there, out of n_ended that are done or diverged
    """

    axis: SearchAxis
    first: Level
    last: Level
    n_diverged: int
    n_ended: int


def find_divergence(search: SearchRecord) -> Divergence | None:
    """Return the range of one hyperparameter in which divergence concentrates, or None.

    Candidates are the single levels of a choice, and the ranges of levels from either end of a numeric axis. The range
    with the largest Youden's J wins: the share of all diverged trials that lie in it minus the share of all finished
    trials that do. It must have J >= 0.5, also among the trials that have this hyperparameter: that those which lack it
    do not diverge says nothing about its values. The search must have at least three diverged trials.
    """
    trials = [t for t in search.trials if t.state in ("done", "diverged")]
    bad = sum(t.state == "diverged" for t in trials)
    good = len(trials) - bad
    if bad < 3 or not good:
        return None
    best, divergence = 0.0, None
    for axis in search.axes:
        levels = group_by_level(axis, trials)
        spans = [(i, i) for i in range(len(levels))]
        if axis.is_numeric:
            spans = [(0, i) for i in range(len(levels))] + [(i, len(levels) - 1) for i in range(1, len(levels))]
        having = Counter(t.state for level in levels for t in level.trials)
        if not (having["diverged"] and having["done"]):
            continue
        for first, last in spans:
            states = Counter(t.state for level in levels[first : last + 1] for t in level.trials)
            youden = states["diverged"] / bad - states["done"] / good
            among = states["diverged"] / having["diverged"] - states["done"] / having["done"]
            if min(youden, among) >= 0.5 and youden > best:
                best = youden
                divergence = Divergence(axis, levels[first], levels[last], states["diverged"], states.total())
    return divergence


def count_level_with_best(search: SearchRecord) -> int:
    """Count the trials within one standard deviation (over repeats) of the best, the best included."""
    best = search.best
    if best is None or best.value is None or best.sd is None:
        return 0
    return sum(abs(t.value - best.value) <= best.sd for t in search.ranked_trials if t.value is not None)

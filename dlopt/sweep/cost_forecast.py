"""Estimate the time and disk space of a search by measuring a few of its runs.

The time of a step is modelled as a product of one factor per axis: if arch=resnet takes five times as long as arch=mlp,
it does so with every optimizer. So a few rehearsals, chosen to tell the axes apart, predict every combination.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.config.compose.flatten import flatten_settings
from dlopt.config.problems import Problems
from dlopt.config.schema.settings import build_settings
from dlopt.rundir.writer import RunWriter
from dlopt.runner.job import Job, prepare_run
from dlopt.sweep.axis import Axis, Choice, Interval
from dlopt.sweep.plan import Plan
from dlopt.sweep.space import Space
from dlopt.training.cost import Cost, CostEstimate, CostModel, estimate_cost
from dlopt.training.experiment import Experiment, Settings

MAX_REHEARSALS = 8
"""Maximum number of rehearsals."""
SECONDS_PER_REHEARSAL, SECONDS_FOR_ALL = 0.6, 10.0
"""Seconds of steps in a rehearsal, and seconds after which no further rehearsal begins."""
MAX_SAMPLE_POINTS = 1_000
"""Maximum number of points that represent all, spread evenly over the search."""
COST_NEUTRAL_KEYS = {"seed", "epochs", "steps", "eval_every", "checkpoint", "objective", "name"}
"""Keys that do not change the time of a step; the number of steps is known without a rehearsal."""
COST_KEYS = {"validation", "batch_size", "precision", "threads", "device", "compile"} | set(
    groups.select_groups("sets_cost")
)
"""Keys whose numbers change the time of a step; of other components, such as optimizers, only the option does."""
MAX_CATEGORIES = 4
"""Maximum number of values of an axis of numbers that have a factor each; more values lie on a curve."""
LOG_FLOOR = 1e-12
"""Replaces a cost of 0 on the logarithmic scale."""
SETTINGS = {field.name for field in dataclasses.fields(Settings)}


@dataclass(frozen=True)
class DryRunPlan:
    """A search that is not started.

    total      number of points
    remaining  ordinals of the points without an outcome
    sampler    grid, random, tpe or qmc
    point      returns the point of an ordinal, or None if it depends on results
    forecast   estimates the cost of the remaining runs
    n_checked  number of points that were checked: each choice and both ends of each interval
    workers    runs at once
    """

    plan: Plan
    total: int
    remaining: Sequence[int]
    sampler: str
    point: Callable[[int], tuple[Any, ...] | None]
    forecast: Callable[[], CostForecast]
    n_checked: int
    workers: int


@dataclass(frozen=True)
class CostForecast:
    """The estimated cost of a search.

    total        cost of all remaining runs, one after another
    least, most  cost of a single run
    n_rehearsed  number of rehearsals; 0 if all failed, and then costs mean nothing
    n_kinds      number of runs that differ in what makes a step fast or slow
    failures     errors of runs that could not be rehearsed, by their titles
    """

    total: Cost
    least: Cost
    most: Cost
    n_rehearsed: int
    n_kinds: int
    failures: Mapping[str, Exception]


def begin_run(job: Job, folder: Path) -> tuple[Experiment, RunWriter]:
    """Begin a run as its process would, in another folder."""
    prepare_run(job, folder)
    experiment = build(job.config, job.overrides)[0]
    settings = flatten_settings(job.config, job.choices)
    return experiment, RunWriter.create(folder, settings, **experiment.describe_run())


def rehearse_run(job: Job, seconds: float) -> CostEstimate:
    """Estimate the cost of a run from so many seconds of its steps."""
    return estimate_cost(partial(begin_run, job), seconds)


def forecast_cost(
    space: Space,
    points: Sequence[Sequence[Any]],
    make_job: Callable[[Sequence[Any]], Job],
    runs: int,
    rehearse: Callable[[Job, float], CostEstimate] = rehearse_run,
    clock: Callable[[], float] = time.monotonic,
) -> CostForecast:
    """Estimate the cost of a number of runs, which the points, at least one, represent in equal parts."""
    heavy = [is_heavy(axis) for axis in space.axes]
    kinds: dict[tuple[Any, ...], Sequence[Any]] = {}
    keys = [tuple(v for v, counts in zip(point, heavy, strict=True) if counts) for point in points]
    for key, point in zip(keys, points, strict=True):
        kinds.setdefault(key, point)
    examples, index = list(kinds.values()), {key: i for i, key in enumerate(kinds)}
    features = np.array([_make_features(space.axes, heavy, point) for point in examples])
    deadline = clock() + SECONDS_FOR_ALL
    with contextlib.suppress(Exception):  # reported below
        rehearse(make_job(examples[0]), 0.0)  # what a process does once, such as imports, is not part of a run
    estimates: dict[int, CostEstimate] = {}
    failures: dict[str, Exception] = {}
    for i in select_informative(features, MAX_REHEARSALS):
        if estimates and clock() > deadline:
            break
        job = make_job(examples[i])
        try:
            estimates[i] = rehearse(job, SECONDS_PER_REHEARSAL)
        except Exception as error:  # a custom component can raise anything
            failures[job.title] = error
    if not estimates:
        nothing = Cost(0, 0)
        return CostForecast(nothing, nothing, nothing, 0, len(kinds), failures)
    interpolator = _CostInterpolator(features, estimates)
    costs = [interpolator.predict(index[key], make_job(point)) for key, point in zip(keys, points, strict=True)]
    total = Cost(*(math.fsum(column) * runs / len(costs) for column in zip(*costs, strict=True)))
    least, most = (Cost(*map(end, zip(*costs, strict=True))) for end in (min, max))
    return CostForecast(total, least, most, len(estimates), len(kinds), failures)


def is_heavy(axis: Axis) -> bool:
    """Return whether the values of an axis may differ in the time of a step."""
    top = axis.key.lstrip("+~").partition(".")[0].partition("@")[0]
    if top in COST_NEUTRAL_KEYS:
        return False
    has_words = isinstance(axis, Choice) and any(_parse_number(value) is None for value in axis.values)
    return top in COST_KEYS or has_words or top not in groups.list_groups()


def select_informative(features: np.ndarray, most: int) -> list[int]:
    """Return at most so many rows of (n, k) features that determine most of the columns, the best first.

    Each row is the farthest from the span of the rows before it: a QR decomposition with pivoting.
    """
    from scipy.linalg import qr

    _, _, order = qr(features.T, mode="economic", pivoting=True)
    return [int(i) for i in order[:most]]


class _CostInterpolator:
    """Predicts the cost model of every kind of run by a log-linear fit to the rehearsals, of least norm."""

    def __init__(self, features: np.ndarray, estimates: Mapping[int, CostEstimate]) -> None:
        self._estimates = estimates
        self._features = features
        rows = list(estimates)
        logs = np.log(np.maximum([_to_column(estimates[i].cost_model) for i in rows], LOG_FLOOR))
        self._mean = logs.mean(0)
        self._effects, *_ = np.linalg.lstsq(features[rows], logs - self._mean, rcond=None)

    def predict(self, kind: int, job: Job) -> Cost:
        """Return the cost of a run of a kind. It has the rows of the most similar rehearsal."""
        distance = np.abs(self._features - self._features[kind]).sum(1)
        nearest = min(self._estimates, key=lambda i: float(distance[i]))
        estimate = self._estimates[nearest]
        settings = build_settings({k: v for k, v in job.config.items() if k in SETTINGS}, Problems())
        assert settings is not None  # it was checked
        column = np.exp(self._features[kind] @ self._effects + self._mean).tolist()
        once, step, evaluation, checkpoint = (Cost(*column[i : i + 2]) for i in range(0, 8, 2))
        model = CostModel(once, step, evaluation, estimate.cost_model.rows, checkpoint, column[8])
        return estimate.cost(settings, None if kind == nearest else model)


def _to_column(model: CostModel) -> list[float]:
    return [*model.once, *model.step, *model.evaluation, *model.checkpoint, model.history]


def _make_features(axes: Sequence[Axis], heavy: Sequence[bool], point: Sequence[Any]) -> list[float]:
    """Return a point as numbers: 1, an indicator of each value of a choice, and the position in a range of numbers."""
    features = [1.0]
    for axis, counts, value in zip(axes, heavy, point, strict=True):
        if not counts:
            continue
        numbers = [axis.low, axis.high] if isinstance(axis, Interval) else [_parse_number(v) for v in axis.values]
        ends = [x for x in numbers if x is not None]
        if isinstance(axis, Choice) and (len(numbers) <= MAX_CATEGORIES or len(ends) < len(numbers)):
            features += [float(value == other) for other in axis.values]
        elif value is None:  # the axis does not apply
            features += [0.0, 0.0]
        else:  # time goes with a power of a large size
            x, low, high = (math.log(x) if min(ends) > 0 else x for x in (float(value), min(ends), max(ends)))
            share = (x - low) / (high - low)
            features += [share, share**2]
    return features


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

"""What a search will take: runs that stand for all are rehearsed, and tell of the others.

The time of a step is taken to be a product of what each axis makes of it: arch=resnet five times that of arch=mlp,
whatever the optimizer. So a few rehearsals, chosen to tell the axes apart, tell of every combination.
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
from dlopt.sweep.search import Plan
from dlopt.sweep.space import Axis, Choice, Interval, Space
from dlopt.training.cost import Cost, CostEstimate, CostModel, estimate_cost
from dlopt.training.experiment import Experiment, Settings

MAX_REHEARSALS = 8
"""Rehearsals, at most."""
SECONDS_PER_REHEARSAL, SECONDS_FOR_ALL = 0.6, 10.0
"""Seconds of steps in a rehearsal, and seconds after which no further one begins."""
MAX_SAMPLE_POINTS = 1_000
"""Points that stand for all, at most; spread evenly over the search."""
COST_NEUTRAL_KEYS = {"seed", "epochs", "steps", "eval_every", "checkpoint", "objective", "name"}
"""Keys that change nothing of how long a step takes; how many steps there are is known without a rehearsal."""
COST_KEYS = {"validation", "batch_size", "precision", "threads", "device", "compile"} | set(
    groups.select_groups("sets_cost")
)
"""Keys whose numbers change how long a step takes; of other parts, such as optimizers, only options do."""
MAX_CATEGORIES = 4
"""Values up to which numbers are told apart one by one; more of them lie on a curve."""
LOG_FLOOR = 1e-12
"""What stands for a figure of 0 on a logarithmic scale."""


@dataclass(frozen=True)
class DryRunPlan:
    """A search that is not started.

    total      points in all
    left       the ordinals of those that have no outcome yet
    sampler    grid, random, tpe or qmc
    point      the point of an ordinal; None where it follows from results
    forecast   what the runs that are left take
    checked    how many points were, with each choice and both ends of each interval
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
    """What a search takes.

    total       of all runs that are left, one after another
    least       of a single run, and most
    rehearsed   how many runs were; 0 where all that were tried failed, and costs say nothing
    kinds       how many there were that differ in what makes a run fast or slow
    failed      what went wrong with runs that could not be rehearsed, by their titles
    """

    total: Cost
    least: Cost
    most: Cost
    n_rehearsed: int
    n_kinds: int
    failures: Mapping[str, Exception]


def begin_run(job: Job, folder: Path) -> tuple[Experiment, RunWriter]:
    """A run as its process would begin it, in another folder."""
    prepare_run(job, folder)
    experiment = build(job.config, job.overrides)[0]
    given = flatten_settings(job.config, job.choices)
    return experiment, RunWriter.create(folder, given, device=experiment.settings.device, threads=experiment.threads)


def forecast_cost(
    space: Space,
    points: Sequence[Sequence[Any]],
    job: Callable[[Sequence[Any]], Job],
    runs: int,
    rehearse: Callable[[Job, float], CostEstimate] = lambda job, seconds: estimate_cost(
        partial(begin_run, job), seconds
    ),
    clock: Callable[[], float] = time.monotonic,
) -> CostForecast:
    """What so many runs take, for which these points, at least one, stand in equal parts.

    job makes the run of a point.
    """
    kinds: dict[tuple[Any, ...], int] = {}
    heavy = [is_heavy(axis) for axis in space.axes]
    kind_of = [kinds.setdefault(_kind(point, heavy), i) for i, point in enumerate(points)]
    traits = np.array([_traits(space.axes, heavy, points[i]) for i in kinds.values()])
    first = list(kinds.values())
    until = clock() + SECONDS_FOR_ALL
    with contextlib.suppress(Exception):  # which is said below
        rehearse(job(points[first[0]]), 0.0)  # what a process does once, such as imports, is none of the runs'
    found: dict[int, CostEstimate] = {}
    failed: dict[str, Exception] = {}
    for at in select_informative(traits, MAX_REHEARSALS):
        if found and clock() > until:
            break
        made = job(points[first[at]])
        try:
            found[at] = rehearse(made, SECONDS_PER_REHEARSAL)
        except Exception as error:  # of a part of people's own, of any kind
            failed[made.title] = error
    if not found:
        nothing = Cost(0, 0)
        return CostForecast(nothing, nothing, nothing, 0, len(kinds), failed)
    figures = _CostInterpolator(traits, found)
    place = {index: at for at, index in enumerate(first)}
    costs = [figures.cost(place[kind], job(point)) for point, kind in zip(points, kind_of, strict=True)]
    total = Cost(*(math.fsum(column) * runs / len(costs) for column in zip(*costs, strict=True)))
    least, most = (Cost(*map(end, zip(*costs, strict=True))) for end in (min, max))
    return CostForecast(total, least, most, len(found), len(kinds), failed)


def is_heavy(axis: Axis) -> bool:
    """Whether the values of an axis may differ in how long a step takes."""
    top = axis.key.lstrip("+~").partition(".")[0].partition("@")[0]
    if top in COST_NEUTRAL_KEYS:
        return False
    words = isinstance(axis, Choice) and any(_number(value) is None for value in axis.values)
    return top in COST_KEYS or words or top not in groups.list_groups()


def select_informative(traits: np.ndarray, most: int) -> list[int]:
    """The rows of (n, k) numbers, at most so many, that tell most of their columns apart, the best first.

    Each is the one that is farthest from what those before it span: a QR decomposition with pivots.
    """
    from scipy.linalg import qr

    _, _, order = qr(traits.T, mode="economic", pivoting=True)
    return [int(i) for i in order[:most]]


class _CostInterpolator:
    """The figures of every kind, from those of the rehearsed ones."""

    def __init__(self, traits: np.ndarray, found: Mapping[int, CostEstimate]) -> None:
        self._rehearsals = found
        self._traits = traits
        known = list(found)
        columns = np.array([_column(found[at].cost_model) for at in known])
        logs = np.log(np.maximum(columns, LOG_FLOOR))
        middle = logs.mean(0)
        effects, *_ = np.linalg.lstsq(
            traits[known], logs - middle, rcond=None
        )  # of least norm where they are not known
        self._column = lambda at: np.exp(traits[at] @ effects + middle)

    def cost(self, at: int, job: Job) -> Cost:
        """Of a run of a kind."""
        nearest = min(self._rehearsals, key=lambda other: float(np.abs(self._traits[at] - self._traits[other]).sum()))
        like = self._rehearsals[nearest]
        tree = {k: v for k, v in job.config.items() if k in _SETTINGS}
        found = build_settings(tree, Problems())
        assert found is not None  # it was checked
        return like.cost(found, None if at == nearest else _with_costs(like.cost_model, self._column(at)))


_SETTINGS = {field.name for field in dataclasses.fields(Settings)}


def _column(figures: CostModel) -> list[float]:
    parts = (figures.once, figures.step, figures.evaluation, figures.checkpoint)
    return [*(x for cost in parts for x in cost), figures.history]


def _with_costs(figures: CostModel, column: np.ndarray) -> CostModel:
    """Other figures of the same rows."""
    once, each, evaluation, checkpoint = (Cost(*map(float, column[i : i + 2])) for i in range(0, 8, 2))
    return CostModel(once, each, evaluation, figures.rows, checkpoint, float(column[8]))


def _kind(point: Sequence[Any], heavy: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(value for value, counts in zip(point, heavy, strict=True) if counts)


def _traits(axes: Sequence[Axis], heavy: Sequence[bool], point: Sequence[Any]) -> list[float]:
    """A point in numbers: 1, for each value of a choice whether it has it, and where among numbers it lies."""
    found = [1.0]
    for axis, counts, value in zip(axes, heavy, point, strict=True):
        if not counts:
            continue
        numbers = [axis.low, axis.high] if isinstance(axis, Interval) else [_number(other) for other in axis.values]
        if isinstance(axis, Choice) and (len(numbers) <= MAX_CATEGORIES or None in numbers):
            found += [float(value == other) for other in axis.values]
        else:  # time goes with a power of a size, where that is large
            ends = min(x for x in numbers if x is not None), max(x for x in numbers if x is not None)
            at, low, high = (math.log(x) if ends[0] > 0 else x for x in (float(value), *ends))
            share = (at - low) / (high - low)
            found += [share, share**2]
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

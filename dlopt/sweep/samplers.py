"""The choice of the next point, as pure functions of the sampler's seed and the ordinal of the point.

So an interrupted search resumes with the points that it would have had. Several processes that share a search only
need to agree on who takes which ordinal. TPE's proposals also depend on the results; it draws by the same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dlopt.sweep.axis import Choice
from dlopt.sweep.options import TpeOptions
from dlopt.sweep.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

MAX_COUNTED = 2_000
"""Points that are compared with each other: takes 0.05 s, with qmc 0.3 s."""
MIN_REPEATED = 0.1
"""Fraction of repeated points above which a search is reported."""


@dataclass(frozen=True)
class Sampler:
    """How points are chosen: name is grid, random, tpe or qmc."""

    name: str
    seed: int
    tpe: TpeOptions


def sample(space: Space, sampler: Sampler, ordinal: int) -> tuple[Any, ...] | None:
    """Return the point of this ordinal, or None if it depends on results, as TPE's do."""
    if sampler.name == "grid":
        return space.grid_point(ordinal)
    if sampler.name == "tpe":
        return None
    shares = sample_uniform if sampler.name == "random" else sample_sobol
    return space.point_at(shares(len(space.axes), sampler.seed, ordinal))


def count_repeated_points(space: Space, sampler: Sampler, total: int) -> int:
    """Return how many of a search's first points, at most MAX_COUNTED of them, are equal to earlier ones.

    The proposals of TPE are not known; it is the smallest possible number.
    """
    if sampler.name == "grid" or space.size == math.inf:
        return 0
    if sampler.name == "tpe":
        return max(total - int(space.size), 0)
    count = min(total, MAX_COUNTED)
    return count - len({sample(space, sampler, ordinal) for ordinal in range(count)})


def describe_repeated_points(space: Space, sampler: Sampler, total: int) -> str:
    """Return that a search trains many identical runs, and what avoids it; an empty text if they are few."""
    repeated = count_repeated_points(space, sampler, total)
    if repeated < MIN_REPEATED * min(total, MAX_COUNTED):
        return ""
    at_least = "at least " if sampler.name == "tpe" or total > MAX_COUNTED else ""
    named = "" if all(isinstance(axis, Choice) for axis in space.axes) else "name the values instead of intervals, and "
    return (
        f"hydra.sweeper.n_trials: {at_least}{repeated:,} of the {total:,} points repeat earlier ones, and with the "
        f"same seed their runs are identical: the space has only {int(space.size):,} points; {named}run each of them "
        "once with hydra/sweeper=grid"
    )


def sample_uniform(dimensions: int, seed: int, ordinal: int) -> Sequence[float]:
    """Draw independent uniform numbers in [0, 1), which are a point of random search."""
    return np.random.default_rng([seed, ordinal]).random(dimensions).tolist()


def sample_sobol(dimensions: int, seed: int, ordinal: int) -> Sequence[float]:
    """Return a point of a scrambled Sobol sequence, whose first 2^k points fill [0, 1)^d evenly (Owen 1998)."""
    if dimensions == 0:
        return []
    engine = _make_sobol_engine(dimensions, seed)
    if engine.num_generated > ordinal:
        engine.reset()
    if engine.num_generated < ordinal:
        engine.fast_forward(ordinal - engine.num_generated)
    return engine.random(1)[0].tolist()


@lru_cache(maxsize=4)
def _make_sobol_engine(dimensions: int, seed: int) -> Any:
    from scipy.stats import qmc

    return qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))


def make_tpe_sampler(sampler: Sampler, ordinal: int, *, conditional: bool = False) -> BaseSampler:
    """Make Optuna's tree-structured Parzen estimator with a seed that depends on the ordinal of the point.

    Running points count as bad ones, so that several processes avoid each other (constant liar). In a conditional
    space, the axes that apply to the same points have a density of their own.
    """
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence([sampler.seed, ordinal]).generate_state(1)[0])
    group = conditional and sampler.tpe.multivariate
    return TPESampler(seed=seed, constant_liar=True, group=group, **asdict(sampler.tpe))

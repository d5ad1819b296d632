"""Where a search looks next: pure functions of the sampler's seed and the ordinal of a point.

So a search that was interrupted goes on with the points that it would have had, and several processes that share one
need agree on nothing but who takes which ordinal. What TPE proposes follows from the results too; it draws by the same
seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dlopt.sweep.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


@dataclass(frozen=True)
class Sampler:
    """How points are chosen: name is grid, random, tpe or qmc; the rest but the seed is for TPE.

    startup       points drawn at random first
    candidates    of which the most promising one is tried
    multivariate  whether all axes are looked at together
    """

    name: str
    seed: int
    startup: int
    candidates: int
    multivariate: bool


def sample(space: Space, sampler: Sampler, ordinal: int) -> tuple[Any, ...] | None:
    """The point of this ordinal; None where it follows from results, as TPE's do."""
    if sampler.name == "grid":
        return space.grid_point(ordinal)
    if sampler.name == "tpe":
        return None
    shares = sample_uniform if sampler.name == "random" else sample_sobol
    return space.point_at(shares(len(space.axes), sampler.seed, ordinal))


def sample_uniform(dimensions: int, seed: int, ordinal: int) -> Sequence[float]:
    """Independent uniform numbers in [0, 1): those of a point of random search."""
    return np.random.default_rng([seed, ordinal]).random(dimensions).tolist()


def sample_sobol(dimensions: int, seed: int, ordinal: int) -> Sequence[float]:
    """The point of a scrambled Sobol sequence, in [0, 1): any 2^k of its first fill the cube evenly (Owen 1998)."""
    if dimensions == 0:
        return []
    engine = _sequence(dimensions, seed)
    if engine.num_generated > ordinal:
        engine.reset()
    if engine.num_generated < ordinal:
        engine.fast_forward(ordinal - engine.num_generated)
    return engine.random(1)[0].tolist()


@lru_cache(maxsize=4)
def _sequence(dimensions: int, seed: int) -> Any:
    from scipy.stats import qmc

    return qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))


def make_tpe_sampler(sampler: Sampler, ordinal: int) -> BaseSampler:
    """Optuna's tree-structured Parzen estimator, which draws by the ordinal of the point that it is asked for.

    The first `startup` points are drawn at random, and points under way count as bad ones, so that several processes
    keep out of each other's way (constant liar). Source: Bergstra et al. 2011, NIPS.
    """
    from optuna.samplers import TPESampler

    return TPESampler(
        seed=int(np.random.SeedSequence([sampler.seed, ordinal]).generate_state(1)[0]),
        n_startup_trials=sampler.startup,
        n_ei_candidates=sampler.candidates,
        multivariate=sampler.multivariate,
        constant_liar=True,
    )

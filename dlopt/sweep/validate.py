"""What a sweep asks of its command line before the first run: that all of them can be built, and agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dlopt.config.build import build
from dlopt.config.compose.hydra_errors import explain
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import ConfigError, Problems
from dlopt.formatting import format_override
from dlopt.metrics.names import higher_is_better
from dlopt.sweep.compose import Composer
from dlopt.sweep.options import N_SEEDS, SweeperOptions
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.repeats import Repeat, make_repeats
from dlopt.sweep.search import Plan
from dlopt.sweep.space import Interval, Space

MAX_UNCONFIRMED_RUNS = 10_000
"""Runs beyond which a grid is only started with --yes."""
MAX_REPEATS = 10_000
"""Runs of one point at most."""
MAX_CHECKED_POINTS = 1_000
"""Points of a space with intervals that are checked: the ends of intervals with all choices."""


def count_points(keys: SweeperOptions, space: Space, problems: Problems) -> int:
    """The points of the search in all."""
    if keys.sampler != "grid":
        if keys.n_trials is None:
            problems.add(
                "hydra.sweeper.n_trials", f"says how many points {keys.sampler} looks at, and must be a number"
            )
        if not space.axes and not problems.errors:
            problems.add("", "there is nothing to search: give a key several values, or an interval")
        return keys.n_trials or 0
    size = int(space.size)
    if keys.n_trials not in (None, size) and not problems.errors:
        problems.add(
            "hydra.sweeper.n_trials",
            f"a grid looks at all of its {size} points, got {keys.n_trials}; hydra/sweeper=random draws so many",
        )
    return size


def make_plan(
    keys: SweeperOptions,
    space: Space,
    total: int,
    composer: Composer,
    config: DictConfig,
    folder: Path,
    problems: Problems,
    *,
    limited: bool,
) -> Plan:
    """What the runs have in common, after all of them were checked; limited: a grid may not have more than MANY."""
    points = select_checked_points(keys, space)
    first = _first(space, points[0], composer)
    over = _repeats(keys, space, first, problems)
    if limited and keys.sampler == "grid" and total * len(over) > MAX_UNCONFIRMED_RUNS:
        count = f"{total * len(over):,} runs"
        problems.add("", f"this grid has {count}; --dry-run says how long they take, --yes starts them")
    problems.raise_if_any()
    objective = _build_all(space, points, over, composer, config, problems)
    problems.raise_if_any()
    pruner = Pruner(
        keys.pruner,
        keys.median.n_startup_trials,
        keys.median.n_warmup_steps,
        keys.hyperband.min_resource,
        keys.hyperband.reduction_factor,
    )
    return Plan(folder, space, over, objective, keys.statistic, pruner, keys.storage, keys.study or "dlopt")


def select_checked_points(keys: SweeperOptions, space: Space) -> list[tuple[Any, ...]]:
    """The points that are checked, in place of all."""
    return space.corners(MAX_UNCONFIRMED_RUNS if keys.sampler == "grid" else MAX_CHECKED_POINTS)


def _first(space: Space, point: Sequence[Any], composer: Composer) -> Mapping[str, Any]:
    """The configuration of one run, which says how often each point is repeated; nothing where it has none."""
    from hydra.errors import HydraException

    try:
        return composer.compose_job(Path(), space.overrides(point), 0).config
    except (HydraException, ValueError):  # which is told with those of all runs
        return {}


def _repeats(keys: SweeperOptions, space: Space, config: Mapping[str, Any], problems: Problems) -> list[Repeat]:
    """The runs of each point."""
    seeds: Sequence[int] = ()
    if keys.seeds is not None:
        if any(axis.key.lstrip("+") == "seed" for axis in space.axes):
            problems.add(
                "hydra.sweeper.seeds", "repeats each point over seeds, and seed has several values: leave one out"
            )
        start = config["seed"] if isinstance(config.get("seed"), int) else 0
        seeds = range(start, start + keys.seeds) if isinstance(keys.seeds, int) else keys.seeds
        if len(seeds) > MAX_REPEATS:
            problems.add("hydra.sweeper.seeds", f"must be at most {MAX_REPEATS:,}, got {len(seeds):,}")
            seeds = ()
        elif len(set(seeds)) < len(seeds) or not seeds:
            problems.add("hydra.sweeper.seeds", "must be a number, or a list of different seeds")
        elif seeds[-1] >= N_SEEDS:
            problems.add(
                "hydra.sweeper.seeds", f"must end below {N_SEEDS}, and {len(seeds)} from seed={start} on do not"
            )
    validation = config.get("validation")
    folds = 0
    if isinstance(validation, Mapping) and validation.get("scheme") == "kfold" and validation.get("fold") is None:
        folds = validation["k"] if isinstance(validation.get("k"), int) else 0
        if any(axis.key in ("validation", "validation.scheme", "validation.k") for axis in space.axes):
            problems.add("validation", "scheme and k are the same for all runs of a search; make a search of each")
    if max(len(seeds), 1) * folds > MAX_REPEATS:
        each = f" with {len(seeds):,} seeds each" if seeds else ""
        problems.add("validation.k", f"a point may have {MAX_REPEATS:,} runs at most, got {folds:,} folds{each}")
        folds = 0
    return make_repeats(seeds, folds)


def _build_all(
    space: Space,
    points: Sequence[Sequence[Any]],
    over: Sequence[Repeat],
    composer: Composer,
    config: DictConfig,
    problems: Problems,
) -> str:
    """Build every run, but for repeats of a point, and throw it away; the objective that all of them have."""
    from hydra.errors import HydraException

    where: dict[tuple[str, str], list[str]] = {}
    objectives: dict[str, list[str]] = {}
    checked: set[tuple[Any, ...]] = set()
    count = 0
    for point in points:
        overrides = [*space.overrides(point), *over[0].overrides]
        kind = tuple(o for o in overrides if not o.startswith("seed="))
        if kind in checked:  # runs that differ in nothing but the seed stand or fall together
            continue
        checked.add(kind)
        count += 1
        varying = " ".join(
            from_hydra(o) for o in overrides if o not in space.fixed_overrides and o not in over[0].overrides
        )
        try:
            job = composer.compose_job(Path(), overrides, 0)
            experiment, _ = build(job.config, job.overrides)
            objectives.setdefault(experiment.objective, []).append(varying)
            continue
        except ConfigError as error:
            found = error.problems
        except (HydraException, ValueError) as error:  # a ValueError where a choice is no name
            found = explain([*config_dir_flag(config), *overrides], error)
        for key, said in found:
            where.setdefault((key, said + _remedy(space, key, said)), []).append(varying)
    for (key, said), which in where.items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        problems.add(key, said + (f"  (in the run {which[0]}{more})" if which[0] and count > len(which) else ""))
    if len({higher_is_better(name) for name in objectives}) > 1:
        several = " and ".join(f"{name} in {which[0]}" for name, which in objectives.items())
        problems.add("objective", f"must be the same for all runs of a search, and is {several}")
    return next(iter(objectives), "")


def _remedy(space: Space, key: str, said: str) -> str:
    """What to type where real numbers are searched for a whole one."""
    real = (a for a in space.axes if isinstance(a, Interval) and not a.whole and from_hydra(a.key).lstrip("+") == key)
    axis = next(real, None)
    if axis is None or "whole number" not in said:
        return ""
    low, high = (format_override(int(end) if float(end).is_integer() else end) for end in axis.ends)
    return f"; search int(interval({low},{high}))"


def config_dir_flag(config: DictConfig) -> list[str]:
    """The flag for options of one's own, if there is any."""
    paths = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    return ["--config-dir", paths[0]] if paths else []

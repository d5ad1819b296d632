"""Checks of a sweep before its first run: every run can be built, and all agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dlopt.config.build import build, check_split
from dlopt.config.compose.hydra_errors import explain
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import ConfigError, Problems
from dlopt.formatting import format_override
from dlopt.metrics.names import higher_is_better
from dlopt.sweep.axis import Interval
from dlopt.sweep.compose import Composer
from dlopt.sweep.options import N_SEEDS, SweeperOptions
from dlopt.sweep.plan import Plan, Repeat, make_repeats
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.space import Space

MAX_UNCONFIRMED_RUNS = 10_000
"""A grid with more runs starts only with --yes."""
MAX_REPEATS = 10_000
"""Maximum number of runs of one point."""
MAX_CHECKED_POINTS = 1_000
"""Maximum number of points that are checked in a space with intervals: their ends with all choices."""
MAX_CHECKED_SPLITS = 50
"""Maximum number of training splits that are checked, each of a seed, a fold and keys of the data."""
SPLIT_KEYS = ("data", "validation", "seed", "batch_size", "experiment")
"""Keys that set the rows of a training split, or what their number limits."""
MAX_EXPLAINED_RUNS = 10
"""The check ends after this many runs that Hydra cannot compose: explaining one takes 0.3 s."""


def count_points(keys: SweeperOptions, space: Space, problems: Problems) -> int:
    """Return the number of points of the search."""
    if not keys.is_grid:
        if keys.n_trials is None:
            problems.add("hydra.sweeper.n_trials", f"must be a number: how many points {keys.sampler} tries")
        if not space.axes and not problems.errors:
            problems.add("", "there is nothing to search: give a key several values, or an interval")
        return keys.n_trials or 0
    size = int(space.size)
    if keys.n_trials not in (None, size) and not problems.errors:
        problems.add(
            "hydra.sweeper.n_trials",
            f"a grid tries all of its {size} points, got {keys.n_trials}; hydra/sweeper=random takes any number",
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
    """Return the common part of the runs, after a check of all. A limited grid has at most MAX_UNCONFIRMED_RUNS."""
    from hydra.errors import HydraException

    points = select_checked_points(keys, space)
    try:
        first = composer.compose_job(Path(), space.overrides(points[0]), 0).config
    except (HydraException, ValueError):  # reported with the errors of all runs
        first = {}
    repeats = _make_repeats(keys, space, first, problems)
    if limited and keys.is_grid and total * len(repeats) > MAX_UNCONFIRMED_RUNS:
        count = f"{total * len(repeats):,} runs"
        problems.add("", f"this grid has {count}; --dry-run says how long they take, --yes starts them")
    problems.raise_if_any()
    objective, higher, digests = _build_all(space, points, repeats, composer, config, problems)
    problems.raise_if_any()
    _check_splits(space, points, repeats, composer, problems)
    problems.raise_if_any()
    pruner = Pruner(keys.pruner, keys.median, keys.hyperband)
    study = keys.study or "dlopt"
    return Plan(folder, space, repeats, objective, higher, keys.statistic, pruner, keys.storage, study, digests)


def select_checked_points(keys: SweeperOptions, space: Space) -> list[tuple[Any, ...]]:
    """Return the points that are checked in place of all."""
    return space.corners(MAX_UNCONFIRMED_RUNS if keys.is_grid else MAX_CHECKED_POINTS)


def _make_repeats(keys: SweeperOptions, space: Space, config: Mapping[str, Any], problems: Problems) -> list[Repeat]:
    """Return the runs of each point, given the configuration of one run."""
    seeds: Sequence[int] = ()
    if keys.seeds is not None:
        if any(axis.key.lstrip("+") == "seed" for axis in space.axes):
            problems.add(
                "hydra.sweeper.seeds", "repeats each point over seeds, and seed has several values: leave one out"
            )
        start = config["seed"] if isinstance(config.get("seed"), int) else 0
        seeds = range(start, start + keys.seeds) if isinstance(keys.seeds, int) else keys.seeds
        message = None
        if len(seeds) > MAX_REPEATS:
            message = f"must be at most {MAX_REPEATS:,}, got {len(seeds):,}"
            seeds = ()
        elif len(set(seeds)) < len(seeds) or not seeds:
            message = "must be a number, or a list of different seeds"
        elif seeds[-1] >= N_SEEDS:
            message = f"must end below {N_SEEDS}, which {len(seeds)} seeds from seed={start} on do not"
        if message is not None:
            problems.add("hydra.sweeper.seeds", message)
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
    repeats: Sequence[Repeat],
    composer: Composer,
    config: DictConfig,
    problems: Problems,
) -> tuple[str, bool, tuple[str, ...]]:
    """Build the first run of every point, and discard it.

    Return the objective that all of them have, whether higher values of it are better, and the digests of the user's
    files that they read.
    """
    from hydra.errors import HydraException

    titles: dict[tuple[str, str], list[str]] = {}
    objectives: dict[tuple[str, bool], list[str]] = {}
    checked: set[tuple[Any, ...]] = set()
    n_explained = 0
    digests: set[str] = set()
    for point in points:
        if n_explained == MAX_EXPLAINED_RUNS:
            break
        overrides = [*space.overrides(point), *repeats[0].overrides]
        kind = tuple(o for o in overrides if not o.startswith("seed="))
        if kind in checked:  # runs that differ only in the seed have the same problems
            continue
        checked.add(kind)
        common = (*space.fixed_overrides, *repeats[0].overrides)
        title = " ".join(from_hydra(o) for o in overrides if o not in common)
        try:
            job = composer.compose_job(Path(), overrides, 0)
            experiment, _ = build(job.config, job.overrides)
            objective = experiment.objective
            higher = higher_is_better(objective, experiment.loss.directions)
            objectives.setdefault((objective, higher), []).append(title)
            digests.update(filter(None, [experiment.encoding.get("sha256")]))
            continue
        except ConfigError as error:
            errors = error.problems
        except (HydraException, ValueError) as error:  # ValueError: a choice that is not a name
            n_explained += 1
            errors = explain([*config_dir_flag(config), *overrides], error, builds=composer.guard is None)
        for key, message in errors:
            titles.setdefault((key, message + _suggest_int(space, key, message)), []).append(title)
    for (key, message), failed in titles.items():
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        is_some = failed[0] and len(checked) > len(failed)
        problems.add(key, message + (f"  (in the run {failed[0]}{more})" if is_some else ""))
    if len({higher for _, higher in objectives}) > 1:
        several = " and ".join(
            f"{name} ({'higher' if higher else 'lower'} is better) in {which[0]}"
            for (name, higher), which in objectives.items()
        )
        problems.add("objective", f"must be the same for all runs of a search, and is {several}")
    return *next(iter(objectives), ("", False)), tuple(sorted(digests))


def _check_splits(
    space: Space, points: Sequence[Sequence[Any]], repeats: Sequence[Repeat], composer: Composer, problems: Problems
) -> None:
    """Check the training split of each seed and fold, of which `_build_all` has built only the first."""

    by_kind: dict[tuple[str, ...], Sequence[Any]] = {}
    for point in points:
        keys = {o: from_hydra(o).lstrip("+").partition("=")[0].partition(".")[0] for o in space.overrides(point)}
        by_kind.setdefault(tuple(o for o, key in keys.items() if key in SPLIT_KEYS), point)
    titles: dict[tuple[str, str], list[str]] = {}
    pairs = [(point, repeat) for point in by_kind.values() for repeat in repeats[:MAX_CHECKED_SPLITS]]
    for point, repeat in pairs[:MAX_CHECKED_SPLITS] if len(pairs) > 1 else ():
        overrides = [*space.overrides(point), *repeat.overrides]
        try:
            check_split(composer.compose_job(Path(), overrides, 0).config)
        except ConfigError as error:
            title = " ".join(from_hydra(o) for o in overrides if o not in space.fixed_overrides)
            for key, message in error.problems:
                titles.setdefault((key, message), []).append(title)
    for (key, message), failed in titles.items():
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        problems.add(key, f"{message}  (in the run {failed[0]}{more})")


def _suggest_int(space: Space, key: str, message: str) -> str:
    """Return the interval to type if real numbers are searched where whole numbers are needed; else nothing."""
    for axis in space.axes if "whole number" in message else ():
        if isinstance(axis, Interval) and not axis.whole and from_hydra(axis.key).lstrip("+") == key:
            low, high = (format_override(int(end) if float(end).is_integer() else end) for end in (axis.low, axis.high))
            return f"; search int(interval({low},{high}))"
    return ""


def config_dir_flag(config: DictConfig) -> list[str]:
    """Return the flag that names the user's folder of options, if there is one."""
    paths = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    return ["--config-dir", paths[0]] if paths else []

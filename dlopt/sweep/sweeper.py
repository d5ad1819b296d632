"""A sweep from its command line to its end: every check, the study, and the search. Called by the plugin for Hydra."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dlopt import durable
from dlopt.config import paths
from dlopt.config.build import build
from dlopt.config.callback import check_directory
from dlopt.config.errors import explain
from dlopt.config.nested import in_full, in_short
from dlopt.config.problems import ConfigError, Problems
from dlopt.config.settings import checked
from dlopt.experiment import Experiment
from dlopt.metrics import higher_is_better
from dlopt.run import Run
from dlopt.sweep import record, session, storage
from dlopt.sweep.forecast import STAND, Forecast, Outlook, forecast
from dlopt.sweep.jobs import Composer, Job
from dlopt.sweep.keys import Keys
from dlopt.sweep.launched import Launched
from dlopt.sweep.points import Sampler, drawn
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.repeats import Repeat, repeats
from dlopt.sweep.search import Plan, Search
from dlopt.sweep.space import Space, agree, space_of
from dlopt.sweep.study import Direction, Study, alone, begun, known
from dlopt.sweep.workers import Workers

MANY = 10_000
"""Runs beyond which a grid is only started with --yes."""
CHECKED = 1_000
"""Points of a space with intervals that are checked: the ends of intervals with all choices."""


def sweep(arguments: Sequence[str], config: DictConfig, context: Any, task_function: Any) -> None:
    """Check everything, then search to the end. ConfigError, with all problems, before anything is started."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    ours = session.current
    assert ours is not None  # set by the command line
    problems = Problems()
    tree: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
    tree.pop("_target_", None)
    keys: Keys | None = checked(Keys, tree, "hydra.sweeper.", problems)
    if config.hydra.output_subdir != ".hydra":
        problems.add("hydra.output_subdir", "must stay .hydra: a run cannot be shown without its configuration")
    if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":  # type: ignore[index, call-overload]
        problems.add("hydra.sweep.subdir", "is the number of the trial; leave it as it is")
    named = config.hydra.launcher
    if not OmegaConf.is_dict(named) or "_target_" not in named:
        problems.add(
            "hydra.launcher", "has the keys of the launcher; which one is said with a slash: hydra/launcher=pool"
        )
    problems.raise_any()
    assert keys is not None
    folders = [paths.CONF, *(Path(word) for word in _own_folder(config)[1:])]
    written = [in_full(f"{key}={value}", folders) for key, value in (keys.params or {}).items()]
    typed = [*written, *arguments]  # of two for one key the last counts
    parser = OverridesParser.create(config_loader=context.config_loader)
    space = space_of(parser.parse_overrides(typed), grid=keys.sampler == "grid", problems=problems)
    folder = Path(config.hydra.sweep.dir)
    check_directory(folder, "hydra.sweep.dir", problems)
    total = _total(keys, space, problems)
    if keys.storage is not None and "://" in keys.storage and keys.study is None:
        problems.add("hydra.sweeper.study", "needs a name, by which other processes find the study in the database")
    problems.raise_any()

    composer = Composer(context.config_loader, config)
    plan = _checked(keys, space, total, composer, config, folder, typed, ours, problems)
    config = _without_address(config)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task_function, config=config
    )
    workers: Workers[Job]
    if hasattr(launcher, "workers"):
        workers = launcher.workers(ours.perform, ours.elsewhere)
    else:
        workers = Launched(launcher, keys.max_batch_size or (10 if keys.sampler == "tpe" else min(total, 1_000_000)))
    try:
        if ours.dry_run:
            at_once = workers.count if hasattr(launcher, "workers") else 1  # of others' it is not known
            ours.screen.planned(_outlook(keys, plan, composer, at_once, total, problems))
            return
        with storage.answering(keys.storage):
            _search(keys, plan, composer, workers, total, config, ours, problems)
    finally:
        workers.close()


def _total(keys: Keys, space: Space, problems: Problems) -> int:
    """The points of the search in all."""
    if keys.sampler != "grid":
        if keys.trials is None:
            problems.add("hydra.sweeper.trials", f"says how many points {keys.sampler} looks at, and must be a number")
        if not space.axes and not problems.found:
            problems.add("", "there is nothing to search: give a key several values, or an interval")
        return keys.trials or 0
    size = int(space.size)
    if keys.trials not in (None, size) and not problems.found:
        problems.add(
            "hydra.sweeper.trials",
            f"a grid looks at all of its {size} points, got {keys.trials}; hydra/sweeper=random draws so many",
        )
    return size


# ------------------------------------------------------------------------------------------------ checks


def _checked(
    keys: Keys,
    space: Space,
    total: int,
    composer: Composer,
    config: DictConfig,
    folder: Path,
    typed: Sequence[str],
    ours: session.Session,
    problems: Problems,
) -> Plan:
    """What the runs have in common, after all of them were checked."""
    points = _corners(keys, space)
    grid = keys.sampler == "grid"
    first = _first(space, points[0], composer)
    over = _repeats(keys, space, first, problems)
    if grid and total * len(over) > MANY and not ours.yes and not ours.dry_run:
        count = f"{total * len(over):,} runs"
        problems.add("", f"this grid has {count}; --dry-run says how long they take, --yes starts them")
    problems.raise_any()
    objective = _check_all(space, points, over, composer, config, typed, problems)
    problems.raise_any()
    pruner = Pruner(
        keys.pruner, keys.median.startup, keys.median.warmup, keys.hyperband.least, keys.hyperband.reduction
    )
    return Plan(folder, space, over, objective, keys.statistic, pruner, keys.storage, keys.study or "dlopt")


def _corners(keys: Keys, space: Space) -> list[tuple[Any, ...]]:
    """The points that are checked, in place of all."""
    return space.corners(MANY if keys.sampler == "grid" else CHECKED)


def _first(space: Space, point: Sequence[Any], composer: Composer) -> Mapping[str, Any]:
    """The configuration of one run, which says how often each point is repeated; nothing where it has none."""
    from hydra.errors import HydraException

    try:
        return composer.job(Path(), space.overrides(point), 0).config
    except (HydraException, ValueError):  # which is told with those of all runs
        return {}


def _repeats(keys: Keys, space: Space, config: Mapping[str, Any], problems: Problems) -> list[Repeat]:
    """The runs of each point."""
    seeds: list[int] = []
    if keys.seeds is not None:
        if any(axis.key.lstrip("+") == "seed" for axis in space.axes):
            problems.add(
                "hydra.sweeper.seeds", "repeats each point over seeds, and seed has several values: leave one out"
            )
        start = config["seed"] if isinstance(config.get("seed"), int) else 0
        seeds = list(range(start, start + keys.seeds)) if isinstance(keys.seeds, int) else list(keys.seeds)
        if len(set(seeds)) < len(seeds) or not seeds:
            problems.add("hydra.sweeper.seeds", "must be a number, or a list of different seeds")
    validation = config.get("validation")
    folds = 0
    if isinstance(validation, Mapping) and validation.get("scheme") == "kfold" and validation.get("fold") is None:
        folds = validation["k"] if isinstance(validation.get("k"), int) else 0
        if any(axis.key in ("validation", "validation.scheme", "validation.k") for axis in space.axes):
            problems.add("validation", "scheme and k are the same for all runs of a search; make a search of each")
    return repeats(seeds, folds)


def _check_all(
    space: Space,
    points: Sequence[Sequence[Any]],
    over: Sequence[Repeat],
    composer: Composer,
    config: DictConfig,
    typed: Sequence[str],
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
        varying = " ".join(in_short(o) for o in overrides if o not in space.fixed and o not in over[0].overrides)
        try:
            experiment = built(composer.job(Path(), overrides, 0))[0]
            objectives.setdefault(experiment.objective, []).append(varying)
            continue
        except ConfigError as error:
            found = error.problems
        except (HydraException, ValueError) as error:  # a ValueError where a choice is no name
            found = explain([*_own_folder(config), *overrides], error)
        for problem in found:
            where.setdefault(problem, []).append(varying)
    for (key, said), which in where.items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        problems.add(key, said + (f"  (in the run {which[0]}{more})" if which[0] and count > len(which) else ""))
    if len({higher_is_better(name) for name in objectives}) > 1:
        several = " and ".join(f"{name} in {which[0]}" for name, which in objectives.items())
        problems.add("objective", f"must be the same for all runs of a search, and is {several}")
    return next(iter(objectives), "")


def built(job: Job) -> tuple[Experiment, list[str]]:
    """The experiment of a run, and notices; ConfigError where it cannot be."""
    return build(job.config, job.overrides)


def _own_folder(config: DictConfig) -> list[str]:
    """The flag for options of one's own, if there is any."""
    paths = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    return ["--config-dir", paths[0]] if paths else []


# ------------------------------------------------------------------------------------------------ what it would be


def _outlook(keys: Keys, plan: Plan, composer: Composer, workers: int, total: int, problems: Problems) -> Outlook:
    """The search as it stands, of which nothing is begun."""
    sampler = _sampler(keys)
    over = _over(keys, plan, total, problems)
    left = [ordinal for ordinal in range(total) if ordinal not in over] if over else range(total)
    chosen = Random(0).sample(left, min(len(left), STAND))
    guess = replace(sampler, name="random") if sampler.name == "tpe" else sampler
    points = [found for ordinal in sorted(chosen) if (found := drawn(plan.space, guess, ordinal)) is not None]

    def job(point: Sequence[Any]) -> Job:
        repeat = plan.repeats[0]
        overrides = [*plan.space.overrides(point), *repeat.overrides]
        return composer.job(plan.place(0, repeat), overrides, 0, plan.title(point, repeat))

    def predicted() -> Forecast:
        return forecast(plan.space, points, job, len(left) * len(plan.repeats))

    def point(ordinal: int) -> tuple[Any, ...] | None:
        return drawn(plan.space, sampler, ordinal)

    return Outlook(plan, total, left, keys.sampler, point, predicted, len(_corners(keys, plan.space)), workers)


def _over(keys: Keys, plan: Plan, total: int, problems: Problems) -> set[int]:
    """The ordinals that have an outcome, in a study that is there already."""
    opened = storage.former(keys.storage, plan.folder, problems)
    problems.raise_any()
    study = None if opened is None else known(opened, plan.study)
    if opened is None or study is None:
        _check_new(plan.folder, [], problems)
        return set()
    plan = _former(plan, study, study.user_attrs.get("dlopt", {}), _content(keys, plan), problems)
    return Study(opened, study, plan.space, _sampler(keys), total, plan.folder).over()


# ------------------------------------------------------------------------------------------------ the search


def _sampler(keys: Keys) -> Sampler:
    return Sampler(keys.sampler, keys.seed, keys.tpe.startup, keys.tpe.candidates, keys.tpe.multivariate)


def _search(
    keys: Keys,
    plan: Plan,
    composer: Composer,
    workers: Workers[Job],
    total: int,
    config: DictConfig,
    ours: session.Session,
    problems: Problems,
) -> None:
    opened = storage.former(keys.storage, plan.folder, problems)
    problems.raise_any()
    if opened is None:
        _check_new(plan.folder, [], problems)  # before a storage is made, which would stay
        opened = storage.opened(keys.storage, plan.folder, problems)
    problems.raise_any()
    assert opened is not None
    direction: Direction = "maximize" if higher_is_better(plan.objective) else "minimize"
    content = _content(keys, plan)
    study, former = begun(opened, plan.study, direction, plan.pruner.made(), content)
    plan = _former(plan, study, former, content, problems)
    plan.folder.mkdir(parents=True, exist_ok=True)
    secret = keys.storage is not None and storage.shown(keys.storage) != keys.storage
    left_out = ("hydra.sweeper.retry=", *(["hydra.sweeper.storage="] if secret else []))  # what is said anew each time
    with alone(plan.folder):  # else two that start at once would write into one file
        record.write(
            plan.folder,
            {
                "command": [o for o in ours.command if not o.startswith(left_out)],
                "sampler": keys.sampler,
                "objective": plan.objective,
                "direction": direction,
                "trials": total,
                **plan.space.content(),
                "seeds": _values(plan.repeats, "seed"),
                "folds": len(_values(plan.repeats, "validation.fold")),
                "statistic": keys.statistic,
                "storage": storage.shown(keys.storage) if keys.storage else storage.JOURNAL,
                "study": plan.study,
            },
        )
        _write_multirun(plan.folder, config)
    mine = Study(opened, study, plan.space, _sampler(keys), total, plan.folder)
    with mine:
        if keys.retry:
            mine.try_failed_again()
        stage = ours.screen.begin(plan, mine, workers.count)
        ours.begun = True
        try:
            Search(plan, mine, composer, workers, stage).run()
        finally:
            ours.counts = mine.counts()


def _content(keys: Keys, plan: Plan) -> dict[str, Any]:
    """What a study must have been made with for this search to go on with it."""
    return {
        **plan.space.content(),
        "objective": plan.objective,
        "sampler": keys.sampler,
        "seed": keys.seed,
        "repeats": [list(repeat.overrides) for repeat in plan.repeats],
        "statistic": keys.statistic,
        "pruner": keys.pruner,
    }


def _former(plan: Plan, study: Any, former: Mapping[str, Any], content: Mapping[str, Any], problems: Problems) -> Plan:
    """The plan as a study has it that was made with this former content; ConfigError where it is of another search."""
    if not former:
        problems.add("hydra.sweeper.study", f"{plan.study} is a study of another program; choose another name")
    for key, said in agree(former, content) if former else ():
        problems.add(key, f"{said}; give this search a hydra.sweep.dir, or a hydra.sweeper.study, of its own")
    problems.raise_any()
    _check_new(plan.folder, study.get_trials(deepcopy=False), problems)
    return replace(plan, space=plan.space.ordered_as(former))


def _values(over: Sequence[Repeat], key: str) -> list[int]:
    """The values of a key over the repeats of a point."""
    found = [o.partition("=")[2] for repeat in over for o in repeat.overrides if o.startswith(f"{key}=")]
    return [int(value) for value in dict.fromkeys(found)]


def _check_new(folder: Path, trials: Sequence[Any], problems: Problems) -> None:
    """A study that begins must not find runs of another in its directory."""
    found = folder.iterdir() if folder.is_dir() and not trials else ()
    places = (place for path in found if path.name.isdecimal() and path.is_dir() for place in (path, *path.iterdir()))
    if any(Run(place).status_file.exists() for place in places):
        problems.add("hydra.sweep.dir", f"{folder} already holds runs, and no study of them; choose another")
    problems.raise_any()


def _write_multirun(folder: Path, config: DictConfig) -> None:
    """multirun.yaml, by which other programs know the sweep."""
    durable.replace(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())


def _without_address(config: DictConfig) -> DictConfig:
    """The same for what writes it to files: the address of a storage may hold a password."""
    own = copy.deepcopy(config)
    with read_write(own), open_dict(own):
        own.hydra.sweeper.storage = None
        own.hydra.overrides.hydra = [o for o in own.hydra.overrides.hydra if "storage=" not in o]
    return own

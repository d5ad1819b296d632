"""A sweep from its command line to its end: every check, the study, and the search. Called by the plugin for Hydra."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.config.problems import Problems
from dlopt.config.schema.settings import build_dataclass
from dlopt.metrics.names import higher_is_better
from dlopt.rundir.directory import RunDirectory
from dlopt.runner.claim import check_directory
from dlopt.runner.job import Job
from dlopt.runner.workers import Workers
from dlopt.storage import atomic
from dlopt.sweep import hydra_launcher, manifest, storage
from dlopt.sweep.compose import Composer, leave_out_address
from dlopt.sweep.context import SweepInvocation
from dlopt.sweep.cost_forecast import MAX_SAMPLE_POINTS, CostForecast, DryRunPlan, forecast_cost
from dlopt.sweep.hydra_launcher import HydraLauncherWorkers
from dlopt.sweep.options import SweeperOptions
from dlopt.sweep.repeats import Repeat
from dlopt.sweep.samplers import Sampler, sample
from dlopt.sweep.search import Plan, SearchRunner
from dlopt.sweep.space import find_disagreements, parse_space
from dlopt.sweep.study import Direction, Study, exclusive, load_or_create_study, load_study
from dlopt.sweep.validate import config_dir_flag, count_points, make_plan, select_checked_points


def sweep(arguments: Sequence[str], config: DictConfig, context: Any, ours: SweepInvocation) -> None:
    """Check everything, then search to the end. ConfigError, with all problems, before anything is started."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    problems = Problems()
    tree: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
    tree.pop("_target_", None)
    keys: SweeperOptions | None = build_dataclass(SweeperOptions, tree, "hydra.sweeper.", problems)
    if config.hydra.output_subdir != ".hydra":
        problems.add("hydra.output_subdir", "must stay .hydra: a run cannot be shown without its configuration")
    if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":  # type: ignore[index, call-overload]
        problems.add("hydra.sweep.subdir", "is the number of the trial; leave it as it is")
    named = config.hydra.launcher
    if not OmegaConf.is_dict(named) or "_target_" not in named:
        problems.add(
            "hydra.launcher", "has the keys of the launcher; which one is said with a slash: hydra/launcher=pool"
        )
    problems.raise_if_any()
    assert keys is not None
    folders = [groups.CONF, *(Path(word) for word in config_dir_flag(config)[1:])]
    written = [to_hydra(f"{key}={value}", folders) for key, value in (keys.params or {}).items()]
    typed = [*written, *arguments]  # of two for one key the last counts
    parser = OverridesParser.create(config_loader=context.config_loader)
    space = parse_space(parser.parse_overrides(typed), grid=keys.sampler == "grid", problems=problems)
    folder = Path(config.hydra.sweep.dir)
    check_directory(folder, "hydra.sweep.dir", problems)
    total = count_points(keys, space, problems)
    if keys.storage is not None and "://" in keys.storage and keys.study is None:
        problems.add("hydra.sweeper.study", "needs a name, by which other processes find the study in the database")
    problems.raise_if_any()

    composer = Composer(context.config_loader, config)
    limited = not (ours.yes or ours.dry_run)
    plan = make_plan(keys, space, total, composer, config, folder, problems, limited=limited)
    config = copy.deepcopy(config)
    leave_out_address(config.hydra)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=hydra_launcher.make_task(ours), config=config
    )
    workers: Workers[Job]
    if hasattr(launcher, "workers"):
        workers = launcher.workers(ours.perform, ours.perform_elsewhere)
    else:
        workers = HydraLauncherWorkers(
            launcher, keys.max_batch_size or (10 if keys.sampler == "tpe" else min(total, 1_000_000))
        )
    if ours.dry_run:
        at_once = workers.count if hasattr(launcher, "workers") else 1  # of others' it is not known
        ours.display.show_plan(_outlook(keys, plan, composer, at_once, total, problems))
        return
    with storage.translate_errors(keys.storage):
        _search(keys, plan, composer, workers, total, config, ours, problems)


# ------------------------------------------------------------------------------------------------ what it would be


def _outlook(
    keys: SweeperOptions, plan: Plan, composer: Composer, workers: int, total: int, problems: Problems
) -> DryRunPlan:
    """The search as it stands, of which nothing is begun."""
    sampler = _sampler(keys)
    over = _over(keys, plan, total, problems)
    left = [ordinal for ordinal in range(total) if ordinal not in over] if over else range(total)
    chosen = Random(0).sample(left, min(len(left), MAX_SAMPLE_POINTS))
    guess = replace(sampler, name="random") if sampler.name == "tpe" else sampler
    points = [found for ordinal in sorted(chosen) if (found := sample(plan.space, guess, ordinal)) is not None]

    def job(point: Sequence[Any]) -> Job:
        repeat = plan.repeats[0]
        overrides = [*plan.space.overrides(point), *repeat.overrides]
        return composer.compose_job(plan.run_folder(0, repeat), overrides, 0, plan.title(point, repeat))

    def predicted() -> CostForecast:
        return forecast_cost(plan.space, points, job, len(left) * len(plan.repeats))

    def point(ordinal: int) -> tuple[Any, ...] | None:
        return sample(plan.space, sampler, ordinal)

    return DryRunPlan(
        plan, total, left, keys.sampler, point, predicted, len(select_checked_points(keys, plan.space)), workers
    )


def _over(keys: SweeperOptions, plan: Plan, total: int, problems: Problems) -> set[int]:
    """The ordinals that have an outcome, in a study that is there already."""
    opened = storage.open_existing_storage(keys.storage, plan.folder, problems)
    problems.raise_if_any()
    study = None if opened is None else load_study(opened, plan.study)
    if opened is None or study is None:
        _check_new(plan.folder, [], problems)
        return set()
    plan = _former(plan, study, study.user_attrs.get("dlopt", {}), _content(keys, plan), problems)
    mine = Study(opened, study, plan.space, _sampler(keys), total, plan.folder)
    _check_total(mine, problems)
    if keys.retry:
        mine.try_failed_again()
    return mine.finished_ordinals()


# ------------------------------------------------------------------------------------------------ the search


def _sampler(keys: SweeperOptions) -> Sampler:
    return Sampler(keys.sampler, keys.seed, keys.tpe.n_startup_trials, keys.tpe.n_ei_candidates, keys.tpe.multivariate)


def _search(
    keys: SweeperOptions,
    plan: Plan,
    composer: Composer,
    workers: Workers[Job],
    total: int,
    config: DictConfig,
    ours: SweepInvocation,
    problems: Problems,
) -> None:
    opened = storage.open_existing_storage(keys.storage, plan.folder, problems)
    problems.raise_if_any()
    if opened is None:
        _check_new(plan.folder, [], problems)  # before a storage is made, which would stay
        opened = storage.open_storage(keys.storage, plan.folder, problems)
    problems.raise_if_any()
    assert opened is not None
    direction: Direction = "maximize" if higher_is_better(plan.objective) else "minimize"
    content = _content(keys, plan)
    study, former = load_or_create_study(opened, plan.study, direction, plan.pruner.to_optuna(), content)
    plan = _former(plan, study, former, content, problems)
    mine = Study(opened, study, plan.space, _sampler(keys), total, plan.folder)
    _check_total(mine, problems)
    plan.folder.mkdir(parents=True, exist_ok=True)
    secret = keys.storage is not None and storage.hide_password(keys.storage) != keys.storage
    left_out = {"hydra.sweeper.retry", *(["hydra.sweeper.storage"] if secret else [])}  # what is said anew each time
    with exclusive(plan.folder):  # else two that start at once would write into one file
        manifest.write(
            plan.folder,
            {
                "command": [o for o in ours.overrides if o.lstrip("+").partition("=")[0] not in left_out],
                "sampler": keys.sampler,
                "objective": plan.objective,
                "direction": direction,
                "trials": total,
                **plan.space.to_dict(),
                "seeds": _values(plan.repeats, "seed"),
                "folds": len(_values(plan.repeats, "validation.fold")),
                "statistic": keys.statistic,
                "storage": storage.hide_password(keys.storage) if keys.storage else storage.JOURNAL,
                "study": plan.study,
            },
        )
        atomic.atomic_write_bytes(
            plan.folder / "multirun.yaml", OmegaConf.to_yaml(config).encode()
        )  # by which others know it
    with mine:
        if keys.retry:
            mine.try_failed_again()
        stage = ours.display.begin(plan, mine)
        ours.has_started = True
        search = SearchRunner(plan, mine, composer, workers, stage)
        try:
            search.run()
        finally:
            ours.counts = search.counts


def _content(keys: SweeperOptions, plan: Plan) -> dict[str, Any]:
    """What a study must have been made with for this search to go on with it."""
    return {
        **plan.space.to_dict(),
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
    for key, said in find_disagreements(former, content) if former else ():
        problems.add(key, f"{said}; give this search a hydra.sweep.dir, or a hydra.sweeper.study, of its own")
    problems.raise_if_any()
    _check_new(plan.folder, study.get_trials(deepcopy=False), problems)
    return replace(plan, space=plan.space.with_order_of(former))


def _check_total(study: Study, problems: Problems) -> None:
    """A search can be made longer, and not shorter than it is already."""
    over = max(study.finished_ordinals(), default=-1) + 1
    if over > study.total:
        said = f"must be at least {over}: so many points were looked at; got {study.total}"
        problems.add("hydra.sweeper.n_trials", said)
    problems.raise_if_any()


def _values(over: Sequence[Repeat], key: str) -> list[int]:
    """The values of a key over the repeats of a point."""
    found = [o.partition("=")[2] for repeat in over for o in repeat.overrides if o.startswith(f"{key}=")]
    return [int(value) for value in dict.fromkeys(found)]


def _check_new(folder: Path, trials: Sequence[Any], problems: Problems) -> None:
    """A study that begins must not find runs of another in its directory."""
    found = folder.iterdir() if folder.is_dir() and not trials else ()
    places = (place for path in found if path.name.isdecimal() and path.is_dir() for place in (path, *path.iterdir()))
    if any(RunDirectory(place).status_file.exists() for place in places):
        problems.add("hydra.sweep.dir", f"{folder} already holds runs, and no study of them; choose another")
    problems.raise_if_any()

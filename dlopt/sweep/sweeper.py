"""A sweep from its command line to its end: every check, the study, and the search. Called by the plugin for Hydra."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from dlopt import console
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.config.implied import NOTICE
from dlopt.config.problems import Problems
from dlopt.config.schema.settings import build_dataclass
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import SWEEP_FILE
from dlopt.runner.claim import check_directory, check_hydra_keys
from dlopt.runner.job import Job
from dlopt.runner.workers import Workers
from dlopt.storage.atomic import atomic_write_bytes
from dlopt.storage.safe_read import mask_passwords
from dlopt.sweep import greedy, hydra_launcher
from dlopt.sweep.claims import exclusive
from dlopt.sweep.compose import Composer, remove_storage_address
from dlopt.sweep.conditions import add_conditions
from dlopt.sweep.context import SweepInvocation
from dlopt.sweep.cost_forecast import MAX_SAMPLE_POINTS, DryRunPlan, forecast_cost
from dlopt.sweep.options import SweeperOptions
from dlopt.sweep.plan import Plan
from dlopt.sweep.samplers import Sampler, describe_repeated_points, sample
from dlopt.sweep.space import find_disagreements, parse_space
from dlopt.sweep.storage import JOURNAL, load_or_create_study, load_study, open_storage, translate_errors
from dlopt.sweep.validate import config_dir_flag, count_points, make_plan, select_checked_points

if TYPE_CHECKING:
    from dlopt.sweep.study import Study

FORMAT = 1
"""Format of sweep.json."""


def sweep(arguments: Sequence[str], config: DictConfig, context: Any, invocation: SweepInvocation) -> None:
    """Check everything, then search to the end. Raises ConfigError, with all problems, before anything is started."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    problems = Problems()
    keys = _read_keys(config, problems)
    folders = [groups.CONF, *(Path(word) for word in config_dir_flag(config)[1:])]
    params = [to_hydra(f"{key}={value}", folders) for key, value in (keys.params or {}).items()]
    parser = OverridesParser.create(config_loader=context.config_loader)
    overrides = parser.parse_overrides([*params, *arguments])  # the last of two for one key counts
    space = parse_space(overrides, grid=keys.is_grid, problems=problems)
    composer = Composer(context.config_loader, config, invocation.guard)
    if not problems.errors:
        space = add_conditions(space, folders, composer)
    if keys.sampler == greedy.NAME and not problems.errors:
        space = greedy.make_stages(space, keys, str(config.hydra.launcher._target_), composer, problems)
    folder = Path(config.hydra.sweep.dir)
    check_directory(folder, "hydra.sweep.dir", problems)
    total = count_points(keys, space, problems)
    if keys.storage is not None and "://" in keys.storage and keys.study is None:
        problems.add("hydra.sweeper.study", "needs a name, by which other processes find the study in the database")
    problems.raise_if_any()

    limited = not (invocation.yes or invocation.dry_run)
    with console.announce("checking each kind of run ..."):
        plan = make_plan(keys, space, total, composer, config, folder, problems, limited=limited)
    config = copy.deepcopy(config)
    remove_storage_address(config.hydra)
    batch_size = keys.max_batch_size or (10 if keys.sampler == "tpe" else min(total, 1_000_000))
    workers = _make_workers(config, context, invocation, batch_size)
    checked = CheckedSweep(keys, plan, total, problems, next(iter(config_dir_flag(config)[1:]), None))
    for text in [*[NOTICE] * composer.is_loss_implied, *space.describe_conditions()]:
        invocation.display.show_notice(text)
    if notice := describe_repeated_points(space, checked.sampler, total):
        invocation.display.show_notice(notice)
    if invocation.dry_run:
        is_external = isinstance(workers, hydra_launcher.HydraLauncherWorkers)  # which may run fewer at once
        invocation.display.show_plan(checked.plan_dry_run(composer, 1 if is_external else workers.count))
        return
    with translate_errors(keys.storage):
        checked.search(composer, workers, config, invocation)


def _read_keys(config: DictConfig, problems: Problems) -> SweeperOptions:
    """Return the keys of hydra.sweeper, after a check of Hydra's other keys."""
    tree: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
    tree.pop("_target_", None)
    keys: SweeperOptions | None = build_dataclass(SweeperOptions, tree, "hydra.sweeper.", problems)
    check_hydra_keys(config.hydra, problems)
    if OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":  # type: ignore[index, call-overload]
        problems.add("hydra.sweep.subdir", "is the number of the trial; leave it as it is")
    launcher = config.hydra.launcher
    if not OmegaConf.is_dict(launcher) or "_target_" not in launcher:
        problems.add("hydra.launcher", "has the keys of the launcher; choose one with a slash: hydra/launcher=pool")
    problems.raise_if_any()
    assert keys is not None
    return keys


def _make_workers(config: DictConfig, context: Any, invocation: SweepInvocation, batch_size: int) -> Workers[Job]:
    from hydra.core.plugins import Plugins

    launcher: Any = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=hydra_launcher.make_task(invocation), config=config
    )
    if hasattr(launcher, "workers"):
        workers: Workers[Job] = launcher.workers(invocation.perform, invocation.perform_elsewhere)
        return workers
    return hydra_launcher.HydraLauncherWorkers(launcher, batch_size)


@dataclass
class CheckedSweep:
    """A sweep whose command line was checked. Its study was not.

    config_dir: the user's folder of options
    """

    keys: SweeperOptions
    plan: Plan
    total: int
    problems: Problems
    config_dir: str | None = None

    def plan_dry_run(self, composer: Composer, workers: int) -> DryRunPlan:
        """Return what is left of a search. Nothing is created."""
        study = self._join_existing_study()
        finished = set() if study is None else study.finished_ordinals()
        remaining = [n for n in range(self.total) if n not in finished] if finished else range(self.total)
        plan, sampler = self.plan, self.sampler
        guess = replace(sampler, name="random") if sampler.name == "tpe" else sampler
        examples = sorted(Random(0).sample(remaining, min(len(remaining), MAX_SAMPLE_POINTS)))
        points = [point for ordinal in examples if (point := sample(plan.space, guess, ordinal)) is not None]

        def make_job(point: Sequence[Any]) -> Job:
            repeat = plan.repeats[0]
            overrides = [*plan.space.overrides(point), *repeat.overrides]
            return composer.compose_job(plan.run_folder(0, repeat), overrides, 0, plan.title(point, repeat))

        return DryRunPlan(
            plan,
            self.total,
            remaining,
            sampler.name,
            partial(sample, plan.space, sampler),
            partial(forecast_cost, plan.space, points, make_job, len(remaining) * len(plan.repeats)),
            len(select_checked_points(self.keys, plan.space)),
            workers,
        )

    def search(
        self, composer: Composer, workers: Workers[Job], config: DictConfig, invocation: SweepInvocation
    ) -> None:
        """Join or create the study, and search."""
        from dlopt.sweep.search import SearchRunner

        study = self._join_existing_study() or self._join_new_study()
        folder = self.plan.folder
        self.plan = replace(self.plan, space=greedy.begin_in(self.plan.space, folder))
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder):  # two processes that start at once write the same files
            self._write_manifest(invocation.overrides)
            atomic_write_bytes(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())  # as Hydra's sweepers do
        with study:
            observer = invocation.display.begin(self.plan, study)
            invocation.has_started = True
            runner = SearchRunner(self.plan, study, composer, workers, observer)
            try:
                runner.run()
            finally:
                invocation.counts = runner.counts

    def _write_manifest(self, overrides: Sequence[str]) -> None:
        """Write sweep.json: what the sweep searches, for its readers and for the command that resumes it."""
        keys, plan = self.keys, self.plan
        storage = mask_passwords(keys.storage) if keys.storage else JOURNAL
        omitted = {"hydra.sweeper.retry"}  # typed again each time
        if keys.storage not in (None, storage):
            omitted.add("hydra.sweeper.storage")
        seeds, folds = (
            dict.fromkeys(o.partition("=")[2] for r in plan.repeats for o in r.overrides if o.startswith(f"{key}="))
            for key in ("seed", "validation.fold")
        )
        content = {
            "format": FORMAT,
            "command": [o for o in overrides if o.lstrip("+").partition("=")[0] not in omitted],
            "sampler": keys.sampler,
            "objective": plan.objective,
            "direction": self._direction,
            "trials": self.total,
            **plan.space.to_dict(),
            "seeds": list(map(int, seeds)),
            "folds": len(folds),
            "statistic": keys.statistic,
            "storage": storage,
            "study": plan.study,
            "data": list(plan.data_digests),
            "config_dir": self.config_dir,
            "cwd": str(Path.cwd()),
        }
        file, text = plan.folder / SWEEP_FILE, json.dumps(content, indent=2) + "\n"
        if not file.exists() or file.read_text() != text:
            atomic_write_bytes(file, text.encode())

    # ------------------------------------------------------------------------------------------- the study

    def _join_existing_study(self) -> Study | None:
        """Join the study if it exists; create nothing."""
        storage = open_storage(self.keys.storage, self.plan.folder, self.problems, must_exist=True)
        self.problems.raise_if_any()
        study = None if storage is None else load_study(storage, self.plan.study, self.plan.pruner.to_optuna())
        if study is None or not (study.user_attrs or study.get_trials(deepcopy=False)):
            self._check_unused()
            return None
        return self._join(storage, study, study.user_attrs.get("dlopt", {}))

    def _join_new_study(self) -> Study:
        """Create the study and join it. Another process may have created it in the meantime."""
        storage = open_storage(self.keys.storage, self.plan.folder, self.problems)
        self.problems.raise_if_any()
        assert storage is not None  # else there was a problem
        pruner = self.plan.pruner.to_optuna()
        return self._join(
            storage, *load_or_create_study(storage, self.plan.study, self._direction, pruner, self._describe())
        )

    def _join(self, storage: Any, study: Any, former: Mapping[str, Any]) -> Study:
        """Return this process's part in a study with its former content; the plan's axes get the former order.

        Raises ConfigError if the study belongs to another search.
        """
        from dlopt.sweep.study import Study

        if not former:
            message = f"{self.plan.study} is a study of another program; choose another name"
            self.problems.add("hydra.sweeper.study", message)
        hint = "; give this search a hydra.sweep.dir, or a hydra.sweeper.study, of its own"
        if former and (direction := study.direction.name.lower()) != self._direction:
            message = f"{self.plan.objective}: this study has to {direction} it, and the loss says {self._direction}"
            self.problems.add("objective", message + hint)
        for key, message in find_disagreements(former, self._describe()) if former else ():
            self.problems.add(key, message + hint)
        self.problems.raise_if_any()
        if not study.get_trials(deepcopy=False):
            self._check_unused()
        self.plan = replace(self.plan, space=self.plan.space.with_order_of(former))
        joined = Study(storage, study, self.plan.space, self.sampler, self.total, self.plan.folder)
        if joined.is_of_earlier_version:
            message = (
                f"{self.plan.study} was interrupted under an earlier version of dlopt; only that one can resume it"
            )
            self.problems.add("hydra.sweeper.study", message + hint)
        least = max(joined.finished_ordinals(), default=-1) + 1
        if least > self.total:
            message = f"must be at least {least}, the number of points tried so far; got {self.total}"
            self.problems.add("hydra.sweeper.n_trials", message)
        self.problems.raise_if_any()
        if self.keys.retry:
            joined.retry_failed()
        return joined

    def _describe(self) -> dict[str, Any]:
        """Return the content of a study that this search can resume."""
        return {
            **self.plan.space.to_dict(),
            "objective": self.plan.objective,
            "sampler": self.keys.sampler,
            "seed": self.keys.seed,
            "repeats": [list(repeat.overrides) for repeat in self.plan.repeats],
            "statistic": self.keys.statistic,
            "pruner": self.keys.pruner,
            "data": list(self.plan.data_digests),
        }

    def _check_unused(self) -> None:
        """Raise ConfigError if the directory of a new study has runs of another one."""
        folder = self.plan.folder
        trials = [p for p in (folder.iterdir() if folder.is_dir() else ()) if p.name.isdecimal() and p.is_dir()]
        if any(RunDirectory(run).status_file.exists() for path in trials for run in (path, *path.iterdir())):
            self.problems.add("hydra.sweep.dir", f"{folder} already holds runs, and no study of them; choose another")
        self.problems.raise_if_any()

    @property
    def _direction(self) -> Any:
        return "maximize" if self.plan.higher_is_better else "minimize"

    @property
    def sampler(self) -> Sampler:
        """Return how points are chosen."""
        return Sampler("grid" if self.keys.is_grid else self.keys.sampler, self.keys.seed, self.keys.tpe)

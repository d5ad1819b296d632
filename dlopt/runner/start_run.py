"""Start one new run: compose its configuration, check it, claim its directory, and train.

The command line and `dlopt.train` share this path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.runner import execute
from dlopt.runner.execute import INTERRUPTED, Invocation

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from dlopt.config.compose.hydra_app import HydraApp
    from dlopt.config.implied import DataKinds
    from dlopt.config.problems import Problems
    from dlopt.runner.observer import Observer
    from dlopt.training.experiment import Experiment

LOADING = "loading torch and the data ..."
YES = "--yes"
SWEEP_KEY_PREFIXES = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper.", "hydra.launcher.", "hydra.sweep.")
"""Prefixes of the keys that only a sweep uses."""


@dataclass(frozen=True)
class CheckedRun:
    """A run without problems that has not started: its configuration, directory, experiment and notices."""

    config: DictConfig
    context: HydraContext
    path: Path
    experiment: Experiment
    notices: Sequence[str]


def check_run(app: HydraApp, keys: Sequence[str]) -> CheckedRun:
    """Compose and check one run. Raises ConfigError with all problems; nothing is written.

    keys: those of the overrides and flags as they were typed.
    """
    from dlopt import console
    from dlopt.config.compose.hydra_app import list_overrides
    from dlopt.config.problems import ConfigError, Problems
    from dlopt.runner.claim import check_directory, check_hydra_keys

    with console.announce(LOADING):
        config, kinds = _compose_run(app)
    context = app.make_context(config)
    problems = Problems()
    path = Path(config.hydra.run.dir)
    check_directory(path, "hydra.run.dir", problems)
    check_hydra_keys(config.hydra, problems)
    _check_search_keys(keys, problems)
    try:
        with console.announce(LOADING):
            from dlopt.config.build import build

            experiment, notices = build(config, list_overrides(config.hydra), loaded=kinds.loaded)
    except ConfigError as error:
        problems.errors += error.problems
    problems.raise_if_any()
    return CheckedRun(config, context, path, experiment, [*kinds.notices, *notices])


def start_run(app: HydraApp, checked: CheckedRun, invocation: Invocation, observer: Observer) -> int:
    """Execute a checked run in its new directory. Return the exit code.

    Raises KeyboardInterrupt if the run was interrupted, and ConfigError if its directory was taken meanwhile.
    """
    from hydra.core.utils import run_job
    from omegaconf import OmegaConf

    from dlopt.config.problems import Problems
    from dlopt.runner.claim import claim_directory
    from dlopt.runner.job import Job

    problems = Problems()
    lock = claim_directory(checked.path, "hydra.run.dir", problems)
    problems.raise_if_any()
    assert lock is not None  # else there was a problem

    def task(config: DictConfig) -> int:
        """Train, after Hydra has created the directory and configured the logging."""
        from hydra.core.hydra_config import HydraConfig

        invocation.has_started = True
        hydra = HydraConfig.get()
        tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        job = Job.from_hydra(tree, hydra, Path(hydra.runtime.output_dir))
        built = checked.experiment, checked.notices
        code, _ = execute.perform(
            job, observer, lock=lock, built=built, command=invocation.command, has_log=not invocation.is_embedded
        )
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code

    config, context = checked.config, checked.context
    try:
        context.callbacks.on_run_start(config=config, config_name=app.config_name)
        result = run_job(
            task,
            config,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=context,
            configure_logging=not invocation.is_embedded,
        )
        context.callbacks.on_run_end(config=config, config_name=app.config_name, job_return=result)
        code: int = result.return_value  # raises the exception of the task
        return code
    finally:
        lock.release()


def _check_search_keys(keys: Sequence[str], problems: Problems) -> None:
    """Check that a single run has no key of a search."""
    misplaced = dict.fromkeys(key for key in keys if key.startswith(SWEEP_KEY_PREFIXES) or key == YES)
    if misplaced:
        first, *others = misplaced
        more = f", like {' and '.join(others)}" if others else ""
        problems.add(first, f"is for a search{more}: add -m")


def _compose_run(app: HydraApp) -> tuple[DictConfig, DataKinds]:
    """Compose the configuration of a run with the overrides that it implies, for which its data may be loaded."""
    config = app.compose(multirun=False)
    from dlopt.config.implied import complete_run  # imports torch, after errors of Hydra

    return complete_run(app, config)

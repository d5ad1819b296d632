"""A run from its whole configuration to its end, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlopt.runner.run_one import FAILED, INTERRUPTED, log_to_run, run_one

if TYPE_CHECKING:
    from dlopt.cli.progress import SweepConsole
    from dlopt.rundir.lock import Lock
    from dlopt.sweep.compose import Job
    from dlopt.training.experiment import Experiment


def perform(
    job: Job,
    *,
    stage: SweepConsole | None = None,
    lock: Lock | None = None,
    built: tuple[Experiment, Sequence[str]] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Make the run; returns the exit code and the summary.

    stage is the screen of a sweep, lock that of the directory where it is held already, and built what was built of
    the configuration, if it was. What is wrong with a configuration that was not is told in the run's directory.
    """
    from dlopt.config.build import build
    from dlopt.config.compose.flatten import flatten_settings
    from dlopt.config.problems import ConfigError
    from dlopt.rundir.writer import RunWriter
    from dlopt.sweep.compose import prepare_run

    settings = flatten_settings(job.config, job.choices)
    prepare_run(job, job.path)
    try:
        experiment, notices = built or build(job.config, job.overrides)
    except ConfigError as error:
        run = RunWriter.create(job.path, settings, lock)
        run.finish("failed", message="; ".join(f"{key}: {said}" for key, said in error.problems))
        return FAILED, {}
    run = RunWriter.create(job.path, settings, lock, device=experiment.settings.device, threads=experiment.threads)
    reporter = None
    if job.ticket is not None:
        from dlopt.sweep.pruning import PruningReporter

        reporter = PruningReporter(job.ticket)
    if not job.hydra:  # Hydra has set up the logging
        return run_one(experiment, run, notices, title=job.title, sweep=stage, reporter=reporter)
    with log_to_run(run):
        return run_one(experiment, run, notices, title=job.title, sweep=stage, reporter=reporter)


def perform_in_process(job: Job, *, stage: SweepConsole) -> None:
    """Make a run of a sweep on its screen; KeyboardInterrupt where it was stopped."""
    _raise_if_interrupted(*perform(job, stage=stage))


def perform_in_worker(job: Job) -> None:
    """Make a run of a sweep in a process that nobody looks at."""
    from dlopt import console
    from dlopt.rundir import provenance

    console.quiet = True
    provenance.start_git_query()
    _raise_if_interrupted(*perform(job))


def _raise_if_interrupted(code: int, summary: dict[str, Any]) -> None:
    if code == INTERRUPTED:
        raise KeyboardInterrupt

"""Perform a run of a sweep: start it, or continue what another process has left of it.

A sweep composes the configuration of an unfinished run again. The run continues from a checkpoint only if it is the
same.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path
from dlopt.runner import execute, resume_run

if TYPE_CHECKING:
    from dlopt.rundir.directory import Checkpoint, RunDirectory
    from dlopt.rundir.lock import Lock
    from dlopt.runner.job import Job
    from dlopt.runner.observer import Observer
    from dlopt.training.experiment import Experiment


def perform(job: Job, observer: Observer, command: str | None = None) -> tuple[int, dict[str, Any]]:
    """Perform a run of a sweep. Return the exit code and the summary.

    command: recorded command line; None: the command line of this process. Raises WorkerLostError if another process
    writes the run.
    """
    from dlopt.rundir.directory import RunDirectory
    from dlopt.runner.claim import claim_unfinished

    lock = claim_unfinished(job.path)
    try:
        former = RunDirectory(job.path)
        if any(file.exists() for file in (former.status_file, former.metrics_file, former.checkpoint("last"))):
            return _continue_run(job, observer, lock, command)
        return execute.perform(job, observer, lock=lock, command=command)
    finally:
        lock.release()


def perform_in_worker(job: Job, command: str | None = None) -> None:
    """Perform a run of a sweep in a worker process. Raises KeyboardInterrupt if the run was interrupted."""
    from dlopt.rundir import provenance
    from dlopt.runner.observer import Observer

    provenance.start_git_query()
    code, _ = perform(job, Observer(), command)
    if code == execute.INTERRUPTED:
        raise KeyboardInterrupt


def list_changes(job: Job) -> list[str]:
    """Return the settings in which a run that has ended differs from its job, as KEY OF_THE_RUN, here OF_THE_JOB."""
    from dlopt.config.compose.static_config import flatten
    from dlopt.config.reopen.load_run import add_missing_keys
    from dlopt.formatting import format_override
    from dlopt.rundir.directory import RunDirectory

    run = RunDirectory(job.path)
    if run.config_digest() == hashlib.sha256(job.config_text).hexdigest():
        return []
    former, present = dict(flatten(add_missing_keys(run.config()))), dict(flatten(job.config))
    keys = (key for key in {**present, **former} if key != "resume" and former.get(key) != present.get(key))
    return [f"{key} {format_override(former.get(key))}, here {format_override(present.get(key))}" for key in keys]


def _continue_run(job: Job, observer: Observer, lock: Lock, command: str | None = None) -> tuple[int, dict[str, Any]]:
    """Continue the run that another process has left in the directory of a job, whose lock this process holds.

    The run resumes from its last checkpoint. It starts again from step 0 if it has failed, or if it has no checkpoint
    of the job's configuration, data and network. Return the exit code and the summary. Raises ConfigError if the run
    cannot be built, or if its directory has links.
    """
    from dlopt.config.compose.flatten import flatten_settings
    from dlopt.config.reopen import load_run
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.job import prepare_run

    run = RunWriter(job.path)
    run.lock = lock
    load_run.check_writable(run.path)
    checkpoint, experiment, notices = _build_from_checkpoint(run, job)
    step = 0 if checkpoint is None else checkpoint.content["step"]
    way = f"continues after step {step}" if step else "starts again from step 0"
    notices.append(f"{display_path(run.path)} {way}")
    prepare_run(job, run.path)
    if job.ticket is not None:
        observer.reporter = job.ticket.open_reporter()
        rows = [row for row in run.rows() if row["step"] <= step]
        should_prune = observer.reporter.replay(rows)
        if should_prune and rows[-1]["step"] == step:  # the process was killed before it could write that
            observer.stop = observer.is_pruned = True
    record = {"settings": flatten_settings(job.config, job.choices), "command": command}
    return resume_run.run_from(run, checkpoint, experiment, observer, notices, record)


def _build_from_checkpoint(run: RunDirectory, job: Job) -> tuple[Checkpoint | None, Experiment, list[str]]:
    """Return the checkpoint from which a run of a sweep continues, if any, and the experiment with its notices."""
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import resume_checks

    checkpoint = None
    if (run.status_or_none() or {}).get("status") != "failed":
        with contextlib.suppress(ValueError):  # no checkpoint can be read
            checkpoint = run.latest_checkpoint()
    if checkpoint is not None and checkpoint.content.get("config") == hashlib.sha256(job.config_text).hexdigest():
        with contextlib.suppress(ConfigError):  # the user's code has changed the network
            experiment, notices = resume_run.build_from(job.config, job.overrides, checkpoint.content)
            resume_checks.check(checkpoint.content, experiment)
            return checkpoint, experiment, notices
    return None, *resume_run.build_from(job.config, job.overrides, None)

"""Perform one run in this process, from its configuration to its exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dlopt.rundir.lock import LockLostError
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.rundir.lock import Lock
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.job import Job
    from dlopt.runner.observer import Observer
    from dlopt.training.experiment import Experiment

DONE, FAILED, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


@dataclass(kw_only=True)
class Invocation:
    """Options of the command besides the configuration, and whether a run has started.

    yes          start even a very large grid
    dry_run      show the plan without running it
    inspect      called with the experiment and its notices in place of training; its result is the exit code
    command      recorded command line; None: the command line of this process
    is_embedded  whether this process is not dlopt's, such as a notebook: its logging and streams are left alone
    full_errors  raise unexpected errors with their traceback
    has_started  whether a run may have started: from then on an error is a failed run, not a wrong command
    """

    yes: bool = False
    dry_run: bool = False
    inspect: Callable[[Experiment, Sequence[str]], int] | None = None
    command: str | None = None
    is_embedded: bool = False
    full_errors: bool = field(default_factory=lambda: os.environ.get("HYDRA_FULL_ERROR") == "1")
    has_started: bool = False


def perform(
    job: Job,
    observer: Observer,
    *,
    lock: Lock | None = None,
    built: tuple[Experiment, Sequence[str]] | None = None,
    command: str | None = None,
    has_log: bool | None = None,
) -> tuple[int, dict[str, Any]]:
    """Start a run and perform it. Return the exit code and the summary.

    lock     lock of the run's directory, if this process holds it already
    built    experiment and notices, if they are built already; else problems of the configuration are written into the
             run's directory
    command  recorded command line; None: the command line of this process
    has_log  whether the logging writes into the run's directory already; by default if Hydra has configured it
    """
    from dlopt.config.build import build
    from dlopt.config.compose.flatten import flatten_settings
    from dlopt.config.problems import ConfigError
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.job import prepare_run

    settings = flatten_settings(job.config, job.choices)
    prepare_run(job, job.path)
    try:
        experiment, notices = built or build(job.config, job.overrides)
    except ConfigError as error:
        run = RunWriter.create(job.path, settings, lock, command=command)
        run.finish("failed", message=error.summarize())
        return FAILED, {}
    run = RunWriter.create(job.path, settings, lock, **experiment.describe_run(), command=command)
    if job.ticket is not None:
        observer.reporter = job.ticket.open_reporter()
    has_log = not job.hydra if has_log is None else has_log
    with contextlib.nullcontext() if has_log else log_to_run(run):
        return run_one(experiment, run, observer, notices)


def run_one(
    experiment: Experiment,
    run: RunWriter,
    observer: Observer,
    notices: Sequence[str] = (),
    *,
    state: Mapping[str, Any] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Train one experiment in its directory. Return the exit code and the summary.

    A failure is logged and reported to the observer. state: content of the checkpoint from which the run resumes.
    """
    from dlopt.runner.signals import stop_on_signals
    from dlopt.training.loop import train

    log = logging.getLogger("dlopt")
    with _ignore_log_errors():
        for notice in map(to_printable, notices):
            log.info(notice)
            observer.on_notice(notice)
        try:
            log.info("start in %s", run.path)
            with stop_on_signals(observer), observer:
                (summary,) = train([experiment], [run], observer, state)
        except KeyboardInterrupt:
            print("stopped at once; progress since the last checkpoint is lost", file=sys.stderr)
            return INTERRUPTED, {}
        except LockLostError as error:  # another process writes the log now
            observer.on_lock_lost(error)
            return FAILED, {}
        except Exception as error:
            log.exception("failed")
            observer.on_failure(run, error)
            return FAILED, {}
        log.info("%s: %s", summary["status"], summary)
        observer.on_end(run, summary)
    return (INTERRUPTED if summary["status"] == "interrupted" else DONE), summary


@contextlib.contextmanager
def _ignore_log_errors() -> Iterator[None]:
    """Let a log that cannot be written not hide the output of the run."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


@contextlib.contextmanager
def log_to_run(run: RunWriter) -> Iterator[logging.Logger]:
    """Log to the run's own file, in the format of conf/config.yaml."""
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    log = logging.getLogger("dlopt")
    log.addHandler(handler)
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False  # Hydra's own handlers write to the screen
    try:
        yield log
    finally:
        log.setLevel(before[0])
        log.propagate = before[1]
        log.removeHandler(handler)
        handler.close()

"""One run from the command line: trained, watched, stopped by signals, reported."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlopt.config.problems import format_error
from dlopt.rundir.display import display_path
from dlopt.rundir.lock import LockLostError
from dlopt.storage.safe_read import to_printable
from dlopt.training.control import handle_signals

if TYPE_CHECKING:
    from dlopt.cli.progress import SweepConsole
    from dlopt.rundir.writer import RunWriter
    from dlopt.sweep.pruning import PruningReporter
    from dlopt.training.control import TrainingControl
    from dlopt.training.experiment import Experiment

DONE, FAILED, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130


def run_one(
    experiment: Experiment,
    run: RunWriter,
    notices: Sequence[str] = (),
    *,
    title: str = "",
    sweep: SweepConsole | None = None,
    state: Mapping[str, Any] | None = None,
    reporter: PruningReporter | None = None,
) -> tuple[int, dict[str, Any]]:
    """Train one experiment in its directory; returns the exit code and the summary. A failure is said and logged.

    state is the content of the checkpoint from which the run goes on; reporter says when a search has no use for more.
    """
    from dlopt import console
    from dlopt.cli.progress import Progress
    from dlopt.training.loop import train as run_loop

    logging.raiseExceptions = False  # a log that cannot be written is no reason to say more than that
    path = run.path
    log = logging.getLogger("dlopt")
    for notice in map(to_printable, notices):
        log.info(notice)
        if not console.quiet:
            print(f"note: {notice}", file=sys.stderr)
    progress = Progress(title or display_path(path), sweep, reporter)
    try:
        log.info("start in %s", run.path)
        with stop_on_signals(progress), progress:
            (summary,) = run_loop([experiment], [run], progress, state)
    except KeyboardInterrupt:
        print("stopped at once; what the last checkpoint does not hold is lost", file=sys.stderr)
        return INTERRUPTED, {}
    except LockLostError as error:  # the log, too, is another process's now
        print(f"stopped: {error}", file=sys.stderr)
        return FAILED, {}
    except Exception as error:
        log.exception("failed")
        if sweep is None:  # whose screen says it in a line, as it does of runs in other processes
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                print("the run failed: there is no space left on the disk; what it had saved is whole", file=sys.stderr)
                print(f"  make room, then: dlopt train resume={display_path(path)}", file=sys.stderr)
            else:
                print(f"the run failed: {format_error(error)}", file=sys.stderr)
                print(f"  the traceback is in {display_path(run.log_file)}", file=sys.stderr)
        return FAILED, {}
    log.info("%s: %s", summary["status"], summary)
    progress.report(run, summary, display_path(path))
    return (INTERRUPTED if summary["status"] == "interrupted" else DONE), summary


@contextlib.contextmanager
def stop_on_signals(watch: TrainingControl) -> Iterator[None]:
    """While this lasts, the first signal lets the step under way be the last; a second ends at once."""

    def stop(signum: int, frame: Any) -> None:
        if watch.stop:
            raise KeyboardInterrupt
        watch.stop = True

    with handle_signals(stop):
        yield


@contextlib.contextmanager
def log_to_run(run: RunWriter) -> Iterator[logging.Logger]:
    """Log to the run's own file, as Hydra would have it."""
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    log = logging.getLogger("dlopt")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    before, log.propagate = log.propagate, False  # Hydra's own handlers write to the screen
    try:
        yield log
    finally:
        log.propagate = before
        log.removeHandler(handler)
        handler.close()

"""One run from the command line: trained, watched, stopped by signals, reported."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlopt.config.problems import named
from dlopt.rundir.display import as_typed
from dlopt.rundir.lock import Lost
from dlopt.storage.safe_read import printable
from dlopt.training.control import handled

if TYPE_CHECKING:
    from dlopt.cli.progress import Stage
    from dlopt.rundir.directory import Run
    from dlopt.sweep.pruning import Reporter
    from dlopt.training.control import Watch
    from dlopt.training.experiment import Experiment

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def run_one(
    experiment: Experiment,
    run: Run,
    notices: Sequence[str] = (),
    *,
    title: str = "",
    sweep: Stage | None = None,
    state: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
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
    for notice in map(printable, notices):
        log.info(notice)
        if not console.quiet:
            print(f"note: {notice}", file=sys.stderr)
    progress = Progress(title or as_typed(path), sweep, reporter)
    try:
        log.info("start in %s", run.path)
        with stoppable(progress), progress:
            (summary,) = run_loop([experiment], [run], progress, state)
    except KeyboardInterrupt:
        print("stopped at once; what the last checkpoint does not hold is lost", file=sys.stderr)
        return INTERRUPTED, {}
    except Lost as error:  # the log, too, is another process's now
        print(f"stopped: {error}", file=sys.stderr)
        return FAILED, {}
    except Exception as error:
        log.exception("failed")
        if sweep is None:  # whose screen says it in a line, as it does of runs in other processes
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                print("the run failed: there is no space left on the disk; what it had saved is whole", file=sys.stderr)
                print(f"  make room, then: dlopt train resume={as_typed(path)}", file=sys.stderr)
            else:
                print(f"the run failed: {named(error)}", file=sys.stderr)
                print(f"  the traceback is in {as_typed(run.log_file)}", file=sys.stderr)
        return FAILED, {}
    log.info("%s: %s", summary["status"], summary)
    progress.report(run, summary, as_typed(path))
    return (INTERRUPTED if summary["status"] == "interrupted" else DONE), summary


@contextlib.contextmanager
def stoppable(watch: Watch) -> Iterator[None]:
    """While this lasts, the first signal lets the step under way be the last; a second ends at once."""

    def stop(signum: int, frame: Any) -> None:
        if watch.stop:
            raise KeyboardInterrupt
        watch.stop = True

    with handled(stop):
        yield


@contextlib.contextmanager
def logged(run: Run) -> Iterator[logging.Logger]:
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

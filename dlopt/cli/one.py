"""One run from the command line: trained, watched, stopped by signals, reported."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.places import as_typed
from dlopt.config.problems import named

if TYPE_CHECKING:
    from dlopt.cli.progress import Stage
    from dlopt.experiment import Experiment

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a cluster's preemption, a terminal that was closed."""


def run_one(
    experiment: Experiment,
    path: Path,
    settings: dict[str, Any],
    notices: Sequence[str] = (),
    *,
    title: str = "",
    sweep: Stage | None = None,
    again: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Train one experiment in its directory; returns the exit code and the summary. A failure is said and logged."""
    from dlopt import screen
    from dlopt.cli.progress import Progress
    from dlopt.run import Run
    from dlopt.train import train as run_loop

    log = logging.getLogger("dlopt")
    for notice in notices:
        log.info(notice)
        if not screen.quiet:
            print(f"note: {notice}", file=sys.stderr)
    run = Run.create(path, settings, again=again, device=experiment.settings.device, threads=experiment.threads)
    progress = Progress(title or as_typed(path), sweep)
    before = {s: signal.signal(s, _stopper(progress)) for s in STOPPING}
    try:
        log.info("start in %s", run.path)
        with progress:
            (summary,) = run_loop([experiment], [run], progress)
    except KeyboardInterrupt:
        print("stopped at once; what the last checkpoint does not hold is lost", file=sys.stderr)
        return INTERRUPTED, {}
    except Exception as error:
        log.exception("failed")
        print(f"the run failed: {named(error)}", file=sys.stderr)
        print(f"  the traceback is in {as_typed(run.log_file)}", file=sys.stderr)
        if sweep:
            sweep.end(title, as_typed(path), "failed", {})
        return FAILED, {}
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    log.info("%s: %s", summary["status"], summary)
    progress.report(run, summary, as_typed(path))
    return (INTERRUPTED if summary["status"] == "interrupted" else DONE), summary


def _stopper(progress: Any) -> Any:
    """The first signal lets the step under way be the last; a second ends at once."""

    def stop(signum: int, frame: Any) -> None:
        if progress.stop:
            raise KeyboardInterrupt
        progress.stop = True

    return stop

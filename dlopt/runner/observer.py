"""Control of a run that reports to its surroundings."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

from dlopt.config.problems import format_error
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.lock import LockLostError
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.writer import RunWriter
from dlopt.training.control import TrainingControl

if TYPE_CHECKING:
    from types import TracebackType

    from dlopt.runner.job import Reporter


class Observer(TrainingControl):
    """Control of one run that prints only failures, for a worker process. It is entered while the run trains.

    reporter: reports rows to a search, which can prune the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reporter: Reporter | None = None

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def on_row(self, run: RunDirectory, row: Row) -> None:
        """Report the row to the search, and stop if the search prunes the run."""
        if self.reporter is not None and self.step < self.steps and self.reporter.should_prune(row):
            self.stop = self.is_pruned = True

    def on_notice(self, notice: str) -> None:
        """Show a notice about the configuration; it is also logged."""

    def on_failure(self, run: RunDirectory, error: Exception) -> None:
        """Print why the run failed; the traceback is in the log."""
        path = display_path(run.path)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            print("the run failed: there is no space left on the disk; its checkpoints are intact", file=sys.stderr)
            print(f"  make room, then: dlopt train resume={path}", file=sys.stderr)
        else:
            print(f"the run failed: {format_error(error)}", file=sys.stderr)
            print(f"  the traceback is in {display_path(run.log_file)}", file=sys.stderr)

    def on_lock_lost(self, error: LockLostError) -> None:
        """Print that another process has taken the run over."""
        print(f"stopped: {error}", file=sys.stderr)

    def on_end(self, run: RunWriter, summary: dict[str, Any]) -> None:
        """Show the results of a run that did not fail."""

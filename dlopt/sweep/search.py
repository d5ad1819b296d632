"""A search: takes points from a study, makes their runs, and tells the study how they ended.

A retry continues the runs that an earlier attempt has left unfinished: see dlopt.runner.sweep_run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dlopt.analysis.aggregate import collect_objectives
from dlopt.config.problems import ConfigError, format_error
from dlopt.report.tensorboard import bands as tensorboard_bands
from dlopt.rundir.directory import Row, RunDirectory
from dlopt.rundir.display import display_path
from dlopt.runner import sweep_run
from dlopt.runner.job import Job
from dlopt.runner.signals import handle_signals
from dlopt.runner.workers import WorkerLostError, Workers
from dlopt.sweep.claims import Counts, Outcome, Trial
from dlopt.sweep.compose import Composer
from dlopt.sweep.plan import FINAL_STATES, Ending, Plan, Repeat, read_ending
from dlopt.sweep.pruning import PruningTicket
from dlopt.sweep.storage import HEARTBEAT_INTERVAL
from dlopt.sweep.study import Study


class SearchObserver(Protocol):
    """Shows people the progress of a search."""

    def on_run_start(self, job: Job) -> None:
        """Show that a run begins."""

    def on_run_end(self, job: Job, status: str, summary: Mapping[str, Any]) -> None:
        """Show that a run has ended, or was stopped."""

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """Show that a trial has ended."""

    def show_notice(self, notice: str) -> None:
        """Show a notice about a run that another process has left."""


class StopHandler:
    """A handler of stop signals that raises KeyboardInterrupt in, or at the beginning of, an `interruptible` block.

    So an outcome is written to the study completely. A second signal raises everywhere, since a database may never
    answer; but not while the KeyboardInterrupt of another signal ends the runs in progress.
    """

    def __init__(self) -> None:
        self._count = 0
        self._is_interruptible = False
        self._has_raised = False

    @property
    def is_forced(self) -> bool:
        """Whether to end at once, as if killed."""
        return self._count > 1

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal interrupt this block: it waits, or its work may be abandoned at any time."""
        self._is_interruptible = True
        try:
            if self._count:
                self._has_raised = True
                raise KeyboardInterrupt
            yield
        finally:
            self._is_interruptible = False
        self.rearm()

    def rearm(self) -> None:
        """Let the next signal raise again: the KeyboardInterrupt of the last one was handled."""
        self._has_raised = False

    def __call__(self, number: int, frame: Any) -> None:
        self._count += 1
        if not self._has_raised and (self._is_interruptible or self.is_forced):
            self._has_raised = True
            raise KeyboardInterrupt


@dataclass
class _OpenTrial:
    """A trial in progress: the repeats that have not begun, the number of running ones, and how the others ended."""

    trial: Trial
    pending: list[Repeat]
    running: int = 0
    was_stopped: bool = False
    endings: dict[Repeat, Ending] = field(default_factory=dict)


class _RunningJob(NamedTuple):
    """A run in progress; former is the status that an earlier attempt has left."""

    entry: _OpenTrial
    repeat: Repeat
    former: Mapping[str, Any] | None


class SearchRunner:
    """The part of one process in a sweep.

    counts   the states of the points at the end; None before, and if the search ended at once
    """

    def __init__(
        self, plan: Plan, study: Study, composer: Composer, workers: Workers[Job], observer: SearchObserver
    ) -> None:
        self.plan = plan
        self.study = study
        self.composer = composer
        self.workers = workers
        self.observer = observer
        self.counts: Counts | None = None
        self._open_trials: dict[int, _OpenTrial] = {}
        self._running: dict[Path, _RunningJob] = {}

    def run(self) -> None:
        """Search until no point is left to begin.

        Raises KeyboardInterrupt if a signal asks this process to stop: after the trials in progress have ended as
        interrupted, or at once after a second signal.
        """
        is_over = threading.Event()
        threading.Thread(target=self._send_heartbeats, args=(is_over,), name="heartbeats", daemon=True).start()
        stop_handler = StopHandler()
        try:
            with handle_signals(stop_handler):
                try:
                    self._work(stop_handler)
                finally:
                    is_over.set()
                    self.workers.close(at_once=stop_handler.is_forced)
                    stop_handler.rearm()
                    if not stop_handler.is_forced:
                        for number in list(self._open_trials):
                            self._leave(self._open_trials.pop(number), lost=False)
                        self.counts = self.study.counts()
        except Exception:
            if stop_handler.is_forced:  # a library that was interrupted has raised an error of its own
                raise KeyboardInterrupt from None
            raise

    def _work(self, stop_handler: StopHandler) -> None:
        while True:
            while len(self._running) < self.workers.count and (job := self._next_job()) is not None:
                self.observer.on_run_start(job)
                self.workers.submit(job)
            if not self._running:
                return
            with stop_handler.interruptible():
                ended = self.workers.wait()
            for job, error in ended:
                self._handle_ended(job, error)

    def _send_heartbeats(self, is_over: threading.Event) -> None:
        while not is_over.wait(HEARTBEAT_INTERVAL):
            with contextlib.suppress(Exception):  # a database that does not answer for a moment
                self.study.send_heartbeats([entry.trial for entry in list(self._open_trials.values())])

    # ------------------------------------------------------------------------------------------- beginning

    def _next_job(self) -> Job | None:
        """Return the next run, of an open trial or of a new one; None if no run can begin."""
        one_by_one = self.plan.pruner.name != "none"
        for entry in self._open_trials.values():
            if entry.pending and not entry.was_stopped and not (entry.running and one_by_one):
                return self._make_job(entry)
        while (trial := self.study.claim(self._harvest)) is not None:
            entry = self._open_trial(trial)
            if entry.pending:
                return self._make_job(entry)
            self._close(entry)
        return None

    def _open_trial(self, trial: Trial) -> _OpenTrial:
        """Open a trial. A retry takes over the runs that have ended."""
        ended = self.plan.read_endings(trial.ordinal, is_retry=True) if trial.is_retry else {}
        pending = [repeat for repeat in self.plan.repeats if repeat not in ended]
        entry = self._open_trials[trial.ordinal] = _OpenTrial(trial, pending)
        for repeat, ending in ended.items():
            if (ticket := self._make_ticket(entry)) is not None:
                end = ending[1].get("step")  # a run does not report its last row, after which nothing can be pruned
                rows = self._read_rows(trial, repeat)
                ticket.open_reporter().replay(row for row in rows if row["step"] != end)
            entry.endings[repeat] = ending
            self._compare_settings(trial.ordinal, trial.point, repeat)
        if entry.endings and self.plan.is_decided([*entry.endings.values()]):
            entry.pending.clear()
        return entry

    def _harvest(self, ordinal: int, is_retry: bool, point: tuple[Any, ...] | None) -> Outcome | None:
        """Return how an attempt of a process that is gone ended, if its runs have ended."""
        outcome = self.plan.read_outcome(ordinal, is_retry)
        if outcome is not None and point is not None:
            for repeat in self.plan.read_endings(ordinal, is_retry):
                self._compare_settings(ordinal, point, repeat)
        return outcome

    def _compare_settings(self, ordinal: int, point: tuple[Any, ...], repeat: Repeat) -> None:
        """Show a notice if a run that has ended had other settings than this search would give it."""
        overrides = [*self.plan.space.overrides(point), *repeat.overrides]
        job = self.composer.compose_job(self.plan.run_folder(ordinal, repeat), overrides, ordinal)
        if changes := sweep_run.list_changes(job):
            ended = f"{display_path(job.path)} has ended with other settings than this search gives it, and counts"
            self.observer.show_notice(f"{ended}: {'; '.join(changes)}")

    def _make_job(self, entry: _OpenTrial) -> Job:
        plan, trial, repeat = self.plan, entry.trial, entry.pending.pop(0)
        overrides = [*plan.space.overrides(trial.point), *repeat.overrides]
        folder, title = plan.run_folder(trial.ordinal, repeat), plan.title(trial.point, repeat)
        job = self.composer.compose_job(folder, overrides, trial.ordinal, title, self._make_ticket(entry))
        former = RunDirectory(job.path).status_or_none() if trial.is_retry else None
        self._running[job.path] = _RunningJob(entry, repeat, former)
        entry.running += 1
        return job

    def _make_ticket(self, entry: _OpenTrial) -> PruningTicket | None:
        """Return the pruning ticket of the next run of a trial, whose runs follow each other; None without a pruner."""
        plan, trial = self.plan, entry.trial
        if plan.pruner.name == "none":
            return None
        rows = (row for repeat in entry.endings for row in self._read_rows(trial, repeat))
        endings = [*entry.endings.values()]
        return PruningTicket(
            storage=plan.storage,
            folder=plan.folder,
            study=plan.study,
            trial=trial.id,
            pruner=plan.pruner,
            objective=plan.objective,
            statistic=plan.statistic,
            before=collect_objectives(endings, plan.objective, higher_is_better=plan.higher_is_better),
            evaluations=sum(row.get(plan.objective) is not None for row in rows),
        )

    def _read_rows(self, trial: Trial, repeat: Repeat) -> list[Row]:
        return RunDirectory(self.plan.run_folder(trial.ordinal, repeat)).rows()

    # ------------------------------------------------------------------------------------------- ending

    def _handle_ended(self, job: Job, error: BaseException | None) -> None:
        entry, repeat, former = self._running.pop(job.path)
        entry.running -= 1
        status, summary = _read_ending(job.path, error, former)
        self.observer.on_run_end(job, status, summary)
        if status in FINAL_STATES:
            entry.endings[repeat] = (status, summary)
            if self.plan.is_decided([*entry.endings.values()]):
                entry.pending.clear()
        elif status == "interrupted":
            raise KeyboardInterrupt
        else:
            entry.was_stopped = True
        if not entry.running:
            if entry.was_stopped:
                self._leave(self._open_trials.pop(entry.trial.ordinal), lost=True)
            elif not entry.pending:
                self._close(entry)

    def _close(self, entry: _OpenTrial) -> None:
        """Tell the study how a trial ended."""
        trial, plan = entry.trial, self.plan
        del self._open_trials[trial.ordinal]
        outcome = plan.summarize_outcome([*entry.endings.values()])
        if self.study.tell(trial, outcome):
            self.observer.on_trial_end(trial, outcome)
        folders = [plan.run_folder(trial.ordinal, repeat) for repeat in plan.repeats]
        if len(folders) > 1:
            tensorboard_bands.write([folder for folder in folders if folder.is_dir()], folders[0].parent / "mean")

    def _leave(self, entry: _OpenTrial, *, lost: bool) -> None:
        """Give up a trial, so that another attempt continues it; if all of its runs have ended, tell the study how."""
        outcome = self.plan.read_outcome(entry.trial.ordinal, entry.trial.is_retry)
        if outcome is not None:
            self.study.tell(entry.trial, outcome)
        else:
            self.study.interrupt(entry.trial, lost=lost)


def _read_ending(path: Path, error: BaseException | None, former: Mapping[str, Any] | None) -> Ending:
    """Return the status and the summary of a run; if it did not end, why: interrupted, lost, or failed before it began.

    former: the status that an earlier attempt has left, which says nothing about this one
    """
    status = RunDirectory(path).status_or_none() or {}
    status = {} if status == former else status
    ending = read_ending(path) if status else None
    if ending is not None:
        return ending
    if isinstance(error, KeyboardInterrupt) or status.get("status") == "interrupted":
        return "interrupted", {}
    if error is None:
        return "lost", {"message": "its directory was removed, or taken by another process"}
    if isinstance(error, WorkerLostError):
        return "lost", {"message": str(error)}
    return "failed", {"message": error.summarize() if isinstance(error, ConfigError) else format_error(error)}

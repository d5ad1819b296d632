"""A search: takes points from a study, makes their runs, and tells the study what they came to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dlopt.analysis.aggregate import collect_objectives
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import format_error
from dlopt.metrics.names import Statistic
from dlopt.report import tensorboard_bands
from dlopt.rundir.directory import RunDirectory
from dlopt.runner.job import Job
from dlopt.runner.signals import handle_signals
from dlopt.runner.workers import WorkerLostError, Workers
from dlopt.sweep.compose import Composer
from dlopt.sweep.pruning import Pruner, PruningTicket
from dlopt.sweep.repeats import Repeat, summarize_outcome
from dlopt.sweep.signals import StopHandler
from dlopt.sweep.space import Space
from dlopt.sweep.storage import HEARTBEAT_INTERVAL
from dlopt.sweep.study import Counts, Outcome, Study, Trial

FINAL_STATES = ("done", "diverged", "failed", "pruned")
"""What a run can have come to; any other status is one on the way."""


class SearchObserver(Protocol):
    """Where people see how a search goes."""

    def on_run_start(self, job: Job) -> None:
        """A run begins."""

    def on_run_end(self, job: Job, status: str, summary: Mapping[str, Any]) -> None:
        """A run is over, or was stopped."""

    def on_trial_end(self, trial: Trial, found: Outcome) -> None:
        """A trial is over."""


@dataclass
class _OpenTrial:
    """A trial under way: the repeats still to begin, how many are running, and how the others ended."""

    trial: Trial
    pending: list[Repeat]
    running: int = 0
    was_stopped: bool = False
    endings: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What the runs of a sweep have in common."""

    folder: Path
    space: Space
    repeats: Sequence[Repeat]
    objective: str
    statistic: Statistic
    pruner: Pruner
    storage: str | None
    study: str

    def run_folder(self, number: int, repeat: Repeat) -> Path:
        """The directory of a run."""
        return self.folder / str(number) / repeat.name if repeat.name else self.folder / str(number)

    def title(self, point: Sequence[Any], repeat: Repeat) -> str:
        """What tells a run from the others."""
        varying = [axis.to_label(value) for axis, value in zip(self.space.axes, point, strict=True)]
        return " ".join(from_hydra(o) for o in (*varying, *repeat.overrides))

    def is_decided(self, endings: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Whether a trial is over with these endings of its runs, whatever the others would come to."""
        states = [status for status, _ in endings]
        early = "failed" in states or "pruned" in states or (self.statistic == "mean" and "diverged" in states)
        return early or len(states) == len(self.repeats)

    def read_outcome(self, number: int) -> Outcome | None:
        """What a trial came to, by its runs' directories; None where it is not over."""
        found = [_ending(self.run_folder(number, repeat)) for repeat in self.repeats]
        endings = [ending for ending in found if ending is not None]
        return (
            summarize_outcome(endings, self.objective, self.statistic) if endings and self.is_decided(endings) else None
        )


class SearchRunner:
    """One process's part in a sweep.

    counts   how the study stands in the end; None before, and where it ended at once
    """

    def __init__(
        self, plan: Plan, study: Study, composer: Composer, workers: Workers[Job], stage: SearchObserver
    ) -> None:
        self.plan = plan
        self.study = study
        self.composer = composer
        self.workers = workers
        self.observer = stage
        self.counts: Counts | None = None
        self._open_trials: dict[int, _OpenTrial] = {}
        self._running: dict[Path, tuple[_OpenTrial, Repeat]] = {}

    def run(self) -> None:
        """Until no point is left to begin.

        KeyboardInterrupt where this process is asked to stop, after the trials under way have ended as interrupted; or,
        asked twice, at once.
        """
        beats = threading.Event()
        threading.Thread(target=self._send_heartbeats, args=(beats,), name="signs of life", daemon=True).start()
        stopping = StopHandler()
        try:
            with handle_signals(stopping):
                try:
                    self._work(stopping)
                finally:
                    beats.set()
                    self.workers.close(at_once=stopping.is_forced)
                    stopping.rearm()
                    if not stopping.is_forced:
                        self._end()
        except Exception:
            if stopping.is_forced:  # a library has made something else of the signal, which came in the midst of it
                raise KeyboardInterrupt from None
            raise

    def _end(self) -> None:
        """Leave what is under way to others, and see how the study stands."""
        for number in list(self._open_trials):
            self._leave(self._open_trials.pop(number), lost=False)
        self.counts = self.study.counts()

    def _work(self, stopping: StopHandler) -> None:
        while True:
            while len(self._running) < self.workers.count and (job := self._next()) is not None:
                self.observer.on_run_start(job)
                self.workers.submit(job)
            if not self._running:
                return
            with stopping.interruptible():
                over = self.workers.wait()
            for job, error in over:
                self._handle_ended(job, error)

    def _send_heartbeats(self, ends: threading.Event) -> None:
        while not ends.wait(HEARTBEAT_INTERVAL):
            with contextlib.suppress(Exception):  # a database that is away for a moment
                self.study.send_heartbeats([found.trial for found in list(self._open_trials.values())])

    # ------------------------------------------------------------------------------------------- beginning

    def _next(self) -> Job | None:
        """The next run: of a trial that is open, or of a new one."""
        for found in self._open_trials.values():
            if found.pending and not found.was_stopped and not (found.running and self.plan.pruner.name != "none"):
                return self._job(found)
        while (trial := self.study.claim(self.plan.read_outcome)) is not None:
            found = self._open_trial(trial)
            if found.pending:
                return self._job(found)
            self._close(found)
        return None

    def _open_trial(self, trial: Trial) -> _OpenTrial:
        """A trial that begins, with those runs of the one that it repeats that had ended."""
        found = self._open_trials[trial.number] = _OpenTrial(trial, list(self.plan.repeats))
        if trial.instead_of is not None:
            for repeat in self.plan.repeats if self.plan.repeats[0].name else ():
                former, place = (self.plan.run_folder(n, repeat) for n in (trial.instead_of, trial.number))
                ending = _ending(former)
                if ending is not None and ending[0] in ("done", "diverged") and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    former.rename(place)
                    found.endings.append(ending)
                    found.pending.remove(repeat)
        if found.endings and self.plan.is_decided(found.endings):
            found.pending.clear()
        return found

    def _job(self, found: _OpenTrial) -> Job:
        plan, trial, repeat = self.plan, found.trial, found.pending.pop(0)
        ticket = None
        if plan.pruner.name != "none":
            ticket = PruningTicket(
                storage=plan.storage,
                folder=plan.folder,
                study=plan.study,
                trial=trial.id,
                pruner=plan.pruner,
                objective=plan.objective,
                statistic=plan.statistic,
                before=collect_objectives(found.endings, plan.objective),
                evaluations=sum(self._evaluations(found, other) for other in plan.repeats if other != repeat),
            )
        overrides = [*plan.space.overrides(trial.point), *repeat.overrides]
        place, title = plan.run_folder(trial.number, repeat), plan.title(trial.point, repeat)
        job = self.composer.compose_job(place, overrides, trial.number, title, ticket)
        found.running += 1
        self._running[job.path] = (found, repeat)
        return job

    def _evaluations(self, found: _OpenTrial, repeat: Repeat) -> int:
        """How often the objective was looked at in a run of a trial that is over."""
        if repeat in found.pending:
            return 0
        rows = RunDirectory(self.plan.run_folder(found.trial.number, repeat)).rows()
        return sum(row.get(self.plan.objective) is not None for row in rows)

    # ------------------------------------------------------------------------------------------- ending

    def _handle_ended(self, job: Job, error: BaseException | None) -> None:
        found, _ = self._running.pop(job.path)
        found.running -= 1
        status, summary = _ending(job.path) or _explain_missing_ending(job.path, error)
        self.observer.on_run_end(job, status, summary)
        if status in FINAL_STATES:
            found.endings.append((status, summary))
            if self.plan.is_decided(found.endings):
                found.pending.clear()
        elif status == "interrupted":
            raise KeyboardInterrupt
        else:
            found.was_stopped = True
        if not found.running:
            if found.was_stopped:
                self._leave(self._open_trials.pop(found.trial.number), lost=True)
            elif not found.pending:
                self._close(found)

    def _close(self, found: _OpenTrial) -> None:
        """Tell the study what a trial came to."""
        del self._open_trials[found.trial.number]
        came_to = summarize_outcome(found.endings, self.plan.objective, self.plan.statistic)
        if self.study.tell(found.trial, came_to):
            self.observer.on_trial_end(found.trial, came_to)
        places = [self.plan.run_folder(found.trial.number, repeat) for repeat in self.plan.repeats]
        if len(places) > 1:
            tensorboard_bands.write([place for place in places if place.is_dir()], places[0].parent / "mean")

    def _leave(self, found: _OpenTrial, *, lost: bool) -> None:
        """Leave a trial that did not end to be tried again; or to be told what its runs came to, if they all did."""
        came_to = self.plan.read_outcome(found.trial.number)
        if came_to is not None:
            self.study.tell(found.trial, came_to)
        else:
            self.study.interrupt(found.trial, lost=lost)


def _explain_missing_ending(path: Path, error: BaseException | None) -> tuple[str, Mapping[str, Any]]:
    """What is said of a run that has not come to an end, and why: it was stopped, its process or directory is gone."""
    status = RunDirectory(path).status_or_none() or {}
    if status.get("status") == "interrupted" or isinstance(error, KeyboardInterrupt):
        return "interrupted", {}
    if error is None:
        return "lost", {"message": "its directory was taken from it"}
    return "lost" if isinstance(error, WorkerLostError) else "failed", {"message": format_error(error)}


def _ending(path: Path) -> tuple[str, Mapping[str, Any]] | None:
    """How a run ended, and its summary; None where it did not, or is not there."""
    run = RunDirectory(path)
    status = run.status_or_none()
    state = None if status is None else str(status.get("status"))
    if state not in FINAL_STATES:
        return None
    return state, run.summary if state != "failed" else {"message": str((status or {}).get("message") or "")}

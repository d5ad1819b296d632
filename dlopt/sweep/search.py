"""A search: takes points from a study, makes their runs, and tells the study what they came to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dlopt.analysis.aggregate import objectives
from dlopt.config.compose.nested_options import in_short
from dlopt.config.problems import named
from dlopt.metrics.names import Statistic
from dlopt.report import tensorboard_bands
from dlopt.rundir.directory import Run
from dlopt.runner.workers import Lost, Workers
from dlopt.sweep.compose import Composer, Job
from dlopt.sweep.pruning import Pruner, Ticket
from dlopt.sweep.repeats import Repeat, outcome
from dlopt.sweep.signals import Stopping
from dlopt.sweep.space import Space
from dlopt.sweep.storage import BEAT
from dlopt.sweep.study import Counts, Outcome, Study, Trial
from dlopt.training.control import handled

OVER = ("done", "diverged", "failed", "pruned")
"""What a run can have come to; any other status is one on the way."""


class Stage(Protocol):
    """Where people see how a search goes."""

    def started(self, job: Job) -> None:
        """A run begins."""

    def ended(self, job: Job, status: str, summary: Mapping[str, Any]) -> None:
        """A run is over, or was stopped."""

    def told(self, trial: Trial, found: Outcome) -> None:
        """A trial is over."""


@dataclass
class _Open:
    """A trial under way: the repeats still to begin, how many are running, and how the others ended."""

    trial: Trial
    pending: list[Repeat]
    running: int = 0
    stopped: bool = False
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

    def place(self, number: int, repeat: Repeat) -> Path:
        """The directory of a run."""
        return self.folder / str(number) / repeat.name if repeat.name else self.folder / str(number)

    def title(self, point: Sequence[Any], repeat: Repeat) -> str:
        """What tells a run from the others."""
        varying = [axis.shown(value) for axis, value in zip(self.space.axes, point, strict=True)]
        return " ".join(in_short(o) for o in (*varying, *repeat.overrides))

    def decided(self, endings: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        """Whether a trial is over with these endings of its runs, whatever the others would come to."""
        states = [status for status, _ in endings]
        early = "failed" in states or "pruned" in states or (self.statistic == "mean" and "diverged" in states)
        return early or len(states) == len(self.repeats)

    def harvest(self, number: int) -> Outcome | None:
        """What a trial came to, by its runs' directories; None where it is not over."""
        found = [_ending(self.place(number, repeat)) for repeat in self.repeats]
        endings = [ending for ending in found if ending is not None]
        return outcome(endings, self.objective, self.statistic) if endings and self.decided(endings) else None


class Search:
    """One process's part in a sweep.

    counts   how the study stands in the end; None before, and where it ended at once
    """

    def __init__(self, plan: Plan, study: Study, composer: Composer, workers: Workers[Job], stage: Stage) -> None:
        self.plan = plan
        self.study = study
        self.composer = composer
        self.workers = workers
        self.stage = stage
        self.counts: Counts | None = None
        self._open: dict[int, _Open] = {}
        self._under_way: dict[Path, tuple[_Open, Repeat]] = {}

    def run(self) -> None:
        """Until no point is left to begin.

        KeyboardInterrupt where this process is asked to stop, after the trials under way have ended as interrupted; or,
        asked twice, at once.
        """
        beats = threading.Event()
        threading.Thread(target=self._beat, args=(beats,), name="signs of life", daemon=True).start()
        stopping = Stopping()
        try:
            with handled(stopping):
                try:
                    self._work(stopping)
                finally:
                    beats.set()
                    self.workers.close(at_once=stopping.twice)
                    stopping.listen()
                    if not stopping.twice:
                        self._end()
        except Exception:
            if stopping.twice:  # a library has made something else of the signal, which came in the midst of it
                raise KeyboardInterrupt from None
            raise

    def _end(self) -> None:
        """Leave what is under way to others, and see how the study stands."""
        for number in list(self._open):
            self._leave(self._open.pop(number), lost=False)
        self.counts = self.study.counts()

    def _work(self, stopping: Stopping) -> None:
        while True:
            while len(self._under_way) < self.workers.count and (job := self._next()) is not None:
                self.stage.started(job)
                self.workers.submit(job)
            if not self._under_way:
                return
            with stopping.heard():
                over = self.workers.wait()
            for job, error in over:
                self._over(job, error)

    def _beat(self, ends: threading.Event) -> None:
        while not ends.wait(BEAT):
            with contextlib.suppress(Exception):  # a database that is away for a moment
                self.study.beat([found.trial for found in list(self._open.values())])

    # ------------------------------------------------------------------------------------------- beginning

    def _next(self) -> Job | None:
        """The next run: of a trial that is open, or of a new one."""
        for found in self._open.values():
            if found.pending and not found.stopped and not (found.running and self.plan.pruner.name != "none"):
                return self._job(found)
        while (trial := self.study.claim(self.plan.harvest)) is not None:
            found = self._opened(trial)
            if found.pending:
                return self._job(found)
            self._close(found)
        return None

    def _opened(self, trial: Trial) -> _Open:
        """A trial that begins, with those runs of the one that it repeats that had ended."""
        found = self._open[trial.number] = _Open(trial, list(self.plan.repeats))
        if trial.instead_of is not None:
            for repeat in self.plan.repeats if self.plan.repeats[0].name else ():
                former, place = (self.plan.place(n, repeat) for n in (trial.instead_of, trial.number))
                ending = _ending(former)
                if ending is not None and ending[0] in ("done", "diverged") and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    former.rename(place)
                    found.endings.append(ending)
                    found.pending.remove(repeat)
        if found.endings and self.plan.decided(found.endings):
            found.pending.clear()
        return found

    def _job(self, found: _Open) -> Job:
        plan, trial, repeat = self.plan, found.trial, found.pending.pop(0)
        ticket = None
        if plan.pruner.name != "none":
            ticket = Ticket(
                storage=plan.storage,
                folder=plan.folder,
                study=plan.study,
                trial=trial.id,
                pruner=plan.pruner,
                objective=plan.objective,
                statistic=plan.statistic,
                before=objectives(found.endings, plan.objective),
                evaluations=sum(self._evaluations(found, other) for other in plan.repeats if other != repeat),
            )
        overrides = [*plan.space.overrides(trial.point), *repeat.overrides]
        place, title = plan.place(trial.number, repeat), plan.title(trial.point, repeat)
        job = self.composer.job(place, overrides, trial.number, title, ticket)
        found.running += 1
        self._under_way[job.path] = (found, repeat)
        return job

    def _evaluations(self, found: _Open, repeat: Repeat) -> int:
        """How often the objective was looked at in a run of a trial that is over."""
        if repeat in found.pending:
            return 0
        rows = Run(self.plan.place(found.trial.number, repeat)).rows()
        return sum(row.get(self.plan.objective) is not None for row in rows)

    # ------------------------------------------------------------------------------------------- ending

    def _over(self, job: Job, error: BaseException | None) -> None:
        found, _ = self._under_way.pop(job.path)
        found.running -= 1
        status, summary = _ending(job.path) or _cut_short(job.path, error)
        self.stage.ended(job, status, summary)
        if status in OVER:
            found.endings.append((status, summary))
            if self.plan.decided(found.endings):
                found.pending.clear()
        elif status == "interrupted":
            raise KeyboardInterrupt
        else:
            found.stopped = True
        if not found.running:
            if found.stopped:
                self._leave(self._open.pop(found.trial.number), lost=True)
            elif not found.pending:
                self._close(found)

    def _close(self, found: _Open) -> None:
        """Tell the study what a trial came to."""
        del self._open[found.trial.number]
        came_to = outcome(found.endings, self.plan.objective, self.plan.statistic)
        if self.study.tell(found.trial, came_to):
            self.stage.told(found.trial, came_to)
        places = [self.plan.place(found.trial.number, repeat) for repeat in self.plan.repeats]
        if len(places) > 1:
            tensorboard_bands.write([place for place in places if place.is_dir()], places[0].parent / "mean")

    def _leave(self, found: _Open, *, lost: bool) -> None:
        """Leave a trial that did not end to be tried again; or to be told what its runs came to, if they all did."""
        came_to = self.plan.harvest(found.trial.number)
        if came_to is not None:
            self.study.tell(found.trial, came_to)
        else:
            self.study.interrupt(found.trial, lost=lost)


def _cut_short(path: Path, error: BaseException | None) -> tuple[str, Mapping[str, Any]]:
    """What is said of a run that has not come to an end, and why: it was stopped, its process or directory is gone."""
    status = Run(path).status_or_none() or {}
    if status.get("status") == "interrupted" or isinstance(error, KeyboardInterrupt):
        return "interrupted", {}
    if error is None:
        return "lost", {"message": "its directory was taken from it"}
    return "lost" if isinstance(error, Lost) else "failed", {"message": named(error)}


def _ending(path: Path) -> tuple[str, Mapping[str, Any]] | None:
    """How a run ended, and its summary; None where it did not, or is not there."""
    run = Run(path)
    status = run.status_or_none()
    state = None if status is None else str(status.get("status"))
    if state not in OVER:
        return None
    return state, run.summary if state != "failed" else {"message": str((status or {}).get("message") or "")}

"""A study: its trials, their points, and which point comes next.

The study is in an Optuna storage. A point has an ordinal 0, 1, ..., which is the name of the directory of its runs. An
attempt at a point is a trial of the storage. An interrupted trial, whose process was killed or stopped, stays in the
storage as failed without an outcome. A new trial continues its runs in their directories. So a study of n points ends
with n outcomes, one for each ordinal, regardless of which processes were killed.

Several processes may work on one study. The storage assigns each number once and in order. The ordinal of a new trial
is the number of first attempts before it. A process that creates one too many puts it back, for a longer search later.

Trials are created by the storage's methods, not by `Study.ask` or `enqueue_trial`: those create a trial first and let
the caller sign it afterwards. A process killed between the two would leave a trial that may or may not be
running. A search of n points also needs no queue of n trials in advance, whose parameters TPE cannot know.
RetryHeartbeatStaleTrialCallback covers databases with heartbeats only, while a journal has none.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.trial import TrialState

from dlopt.config.compose.nested_options import from_hydra
from dlopt.rundir.lock import Lock, get_machine_id
from dlopt.sweep import samplers
from dlopt.sweep.claims import (
    WORKERS,
    Counts,
    Outcome,
    Trial,
    assign_ordinals,
    describe_worker,
    exclusive,
    get_state_name,
    get_verdict,
    is_alive,
    is_first_attempt,
    is_superseded,
    remove_worker_folder,
)
from dlopt.sweep.samplers import Sampler
from dlopt.sweep.space import Space

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

MAX_TRIES = 3
"""Attempts at a point whose process is lost each time, before it counts as failed."""
REAP_INTERVAL = 10.0
"""Seconds between two searches for trials whose process is gone."""

Harvest = Callable[[int, bool, tuple[Any, ...] | None], Outcome | None]
"""Returns how an attempt ended, given the ordinal of its point and whether it is a retry; None if it did not end."""


class Study:
    """A study in a storage, for one of its processes; folder is the sweep's, total the number of points."""

    def __init__(
        self, storage: BaseStorage, study: optuna.Study, space: Space, sampler: Sampler, total: int, folder: Path
    ) -> None:
        self.storage = storage
        self.study = study
        self.space = space
        self.sampler = sampler
        self.total = total
        self.folder = folder
        self._id = storage.get_study_id_from_name(study.study_name)
        self.lock = Lock(folder / WORKERS / os.urandom(4).hex())
        self._last_reap = -math.inf
        self._retried_numbers: set[int] = set()
        self._axes = [(axis, from_hydra(axis.key), axis.distribution()) for axis in space.axes]

    # ------------------------------------------------------------------------------------------- this process

    def __enter__(self) -> Study:
        self.lock.folder.mkdir(parents=True)
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        with contextlib.suppress(OSError):
            self.lock.folder.rmdir()

    # ------------------------------------------------------------------------------------------- claim trials

    def claim(self, harvest: Harvest) -> Trial | None:
        """Claim the next trial for this process; None if no point is left to begin.

        harvest returns the outcome of a point, by its ordinal, if all of its runs have ended: their process may have
        been killed before it told the study. Its further arguments are whether the attempt is a retry, and the
        point, None if it was not written. Lost trials are reaped now and then, and before None is returned.
        """
        with exclusive(self.folder):
            is_recent = time.monotonic() - self._last_reap < REAP_INTERVAL
            trial = self._claim_next() if is_recent else None
            if trial is None:
                self._last_reap = time.monotonic()
                self.reap_dead_trials(harvest)
                trial = self._claim_next()
            return trial

    def _claim_next(self) -> Trial | None:
        trials = self.trials()
        return self._claim_remaining(trials) or self._claim_new(trials)

    def _claim_remaining(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        """Claim a point that is to be tried again, or that was put back, in a trial of its own."""
        ordinals = assign_ordinals(trials)
        retried = {trial.user_attrs.get("instead_of") for trial in trials}
        for trial in trials:
            ordinal = ordinals[trial.number]
            if ordinal >= self.total or trial.number in retried or not self._is_pending(trial, trials):
                continue
            tries = trial.user_attrs.get("tries", 1) + trial.user_attrs.get("lost", False)
            attributes = {"instead_of": trial.number, "ordinal": ordinal, "tries": tries, "directory": str(ordinal)}
            trial_id, before = self._create_trial(trials, attributes)
            if any(t.user_attrs.get("instead_of") == trial.number for t in before):
                self._fail(trial_id)  # another process, in another directory, was faster
                continue
            if trial.state == TrialState.WAITING:
                self._fail(self._get_trial_id(trial.number))
            point = self._write_point(trial_id, ordinal, self.point(trial))
            return Trial(trial_id, ordinal, point, tries, is_retry=True)
        return None

    def _is_pending(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the point of a trial is still to be tried."""
        verdict = get_verdict(trial)
        is_lost = trial.state == TrialState.FAIL and verdict is None and not is_superseded(trial, trials)
        is_retried = verdict == "failed" and trial.number in self._retried_numbers
        return is_lost or is_retried or trial.state == TrialState.WAITING

    def _claim_new(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        if sum(map(is_first_attempt, trials)) >= self.total:
            return None
        trial_id, before = self._create_trial(trials, {})
        ordinal = sum(map(is_first_attempt, before))
        if ordinal >= self.total:  # another process, in another directory, was faster
            self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
            return None
        return Trial(trial_id, ordinal, self._write_point(trial_id, ordinal, None))

    def _create_trial(
        self, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any]
    ) -> tuple[int, Sequence[FrozenTrial]]:
        """Create a running trial with these attributes and its worker, in one operation.

        Returns its id and the trials before it; trials are those of a moment ago.
        """
        worker = describe_worker(self.lock.folder)
        template = optuna.create_trial(state=TrialState.RUNNING, user_attrs={"worker": worker, **attributes})
        trial_id = self.storage.create_new_trial(self._id, template_trial=template)
        number = self.storage.get_trial_number_from_id(trial_id)
        return trial_id, trials if number == len(trials) else [t for t in self.trials() if t.number < number]

    def _get_trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _write_point(self, trial_id: int, ordinal: int, former: Sequence[Any] | None) -> tuple[Any, ...]:
        """Write the point of an ordinal to the storage and return it; former is the point of an earlier attempt."""
        self._send_heartbeat(trial_id)  # without a first heartbeat, other machines would wait for it forever
        point = samplers.sample(self.space, self.sampler, ordinal) if former is None else tuple(former)
        if point is None:
            return self._propose_point(trial_id, ordinal)
        for (axis, name, distribution), value in zip(self._axes, point, strict=True):
            if value is not None:
                internal = distribution.to_internal_repr(axis.parameter(value))
                self.storage.set_trial_param(trial_id, name, internal, distribution)
        return point

    def _propose_point(self, trial_id: int, ordinal: int) -> tuple[Any, ...]:
        """Return what TPE proposes given the results so far."""
        # A new Study sees all results. One that `ask` is not called on keeps the results of its first proposal.
        study = optuna.load_study(
            study_name=self.study.study_name,
            storage=self.storage,
            sampler=samplers.make_tpe_sampler(self.sampler, ordinal, conditional=bool(self.space.conditions)),
            pruner=self.study.pruner,
        )
        trial = optuna.trial.Trial(study, trial_id)
        return self.space.build_point(lambda axis: axis.value(axis.suggest(trial, from_hydra(axis.key))))

    # ------------------------------------------------------------------------------------------- end trials

    def tell(self, trial: Trial | int, outcome: Outcome) -> bool:
        """Write how a trial, given by its id, ended; False if it already counts as interrupted and is tried again."""
        trial_id = trial.id if isinstance(trial, Trial) else trial
        try:
            self.storage.set_trial_user_attr(trial_id, "outcome", outcome.verdict)
            if outcome.message:
                self.storage.set_trial_user_attr(trial_id, "message", outcome.message)
            values = None if outcome.value is None else [outcome.value]
            return self.storage.set_trial_state_values(trial_id, TrialState[get_state_name(outcome.verdict)], values)
        except UpdateFinishedTrialError:
            return False

    def interrupt(self, trial: Trial, *, lost: bool = False) -> None:
        """Give up a trial that did not end; another one continues it.

        lost: its process ended by itself, which counts as an attempt.
        """
        if lost and trial.tries >= MAX_TRIES:
            self.tell(trial, Outcome("failed", None, f"its process was lost {MAX_TRIES} times"))
            return
        if lost:
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(trial.id, "lost", True)
        self._fail(trial.id)

    def retry_failed(self) -> None:
        """Let the points that have failed so far be tried once more."""
        self._retried_numbers = {trial.number for trial in self.trials() if get_verdict(trial) == "failed"}

    def reap_dead_trials(self, harvest: Harvest) -> None:
        """End the trials whose process is gone: with the outcome of their runs, or as interrupted."""
        dead_folders = set()
        trials = self.trials()
        ordinals = assign_ordinals(trials)
        for trial in trials:
            worker = trial.user_attrs.get("worker", {})
            if trial.state == TrialState.RUNNING and not is_alive(worker):
                dead_folders.add(worker.get("folder"))
                trial_id = self._get_trial_id(trial.number)
                outcome = harvest(ordinals[trial.number], not is_first_attempt(trial), self.point(trial))
                if outcome is not None:
                    self.tell(trial_id, outcome)
                else:
                    self._fail(trial_id)
        # Machines seen only in the database come last: a process that ended long ago sends no heartbeat either.
        optuna.storages.fail_stale_trials(self.study)
        for folder in filter(None, dead_folders):
            remove_worker_folder(folder, self.folder)

    def _fail(self, trial_id: int) -> None:
        """Mark a trial as interrupted, unless it has ended."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    # ------------------------------------------------------------------------------------------- read trials

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def counts(self) -> Counts:
        """Count the points by the state of their latest trial."""
        trials = self.trials()
        ordinals = assign_ordinals(trials)
        latest = {ordinals[t.number]: t for t in trials if not is_superseded(t, trials)}
        counts = Counts(self.total)
        for ordinal, trial in latest.items():
            verdict = self._get_final_verdict(trial)
            if ordinal < self.total and trial.state == TrialState.RUNNING:
                counts.running += 1
            elif ordinal < self.total and verdict is not None:
                counts.by_verdict[verdict] = counts.by_verdict.get(verdict, 0) + 1
        return counts

    def finished_ordinals(self) -> set[int]:
        """Return the ordinals of the points that have an outcome and are not to be tried once more."""
        trials = self.trials()
        ordinals = assign_ordinals(trials)
        return {ordinals[trial.number] for trial in trials if self._get_final_verdict(trial) is not None}

    def _get_final_verdict(self, trial: FrozenTrial) -> str | None:
        """Return how a trial ended; None if it did not, or if it failed and its point is to be tried once more."""
        return None if trial.number in self._retried_numbers else get_verdict(trial)

    def point(self, trial: FrozenTrial) -> tuple[Any, ...] | None:
        """Return the point of a trial, or None if it was interrupted before its point was written."""
        try:
            return self.space.build_point(lambda axis: axis.value(trial.params[from_hydra(axis.key)]))
        except KeyError:
            return None

    def locate(self, trial: FrozenTrial) -> tuple[Path, str]:
        """Return the directory of a trial's runs, and its host, which is empty if the directory is visible from here.

        Processes that share a database may each have a directory of their own.
        """
        name = str(assign_ordinals(self.trials())[trial.number])
        own, worker = self.folder / name, trial.user_attrs.get("worker")
        if worker is None or (isinstance(self.storage, JournalStorage) and own.is_dir()):  # it may have been moved
            return own, ""
        other = Path(worker["folder"]).parent.parent / name
        return other, "" if other.is_dir() or worker["machine"] == get_machine_id() else worker["host"]

    @property
    def is_of_earlier_version(self) -> bool:
        """Whether it was interrupted under an earlier version of dlopt, which named directories by trial numbers."""
        return any(not is_first_attempt(t) and "directory" not in t.user_attrs for t in self.trials())

    def best(self) -> FrozenTrial | None:
        """Return the trial with the best value, the first one of several, or None."""
        completed = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        sign = -1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return min(completed, key=lambda t: sign * (t.value or 0.0), default=None)

    def send_heartbeats(self, running: Sequence[Trial]) -> None:
        """Send a heartbeat of running trials, for machines that see only the database."""
        for trial in running:
            self._send_heartbeat(trial.id)

    def _send_heartbeat(self, trial_id: int) -> None:
        if hasattr(self.storage, "record_heartbeat"):  # a database; a journal has none
            self.storage.record_heartbeat(trial_id)

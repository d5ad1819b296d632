"""A study: which points were tried, which are running and where, and which point comes next.

The study is kept in an Optuna storage. A point is known by its ordinal 0, 1, ... and is tried in a trial, whose number
names the run's directory. A trial whose process was killed or stopped is interrupted: it stays in the study as failed
without an outcome, and its point is tried again in a trial of a new number. So a study of n points ends with n
outcomes, one for each ordinal, whatever was killed on the way.

Several processes may work on one study. The storage gives each number once and in order. The ordinal of a new trial is
the number of first attempts before it. A process that gets one too many puts it back, for a longer search later.

Trials are created through the storage's own methods, not by `Study.ask` or `enqueue_trial`: those create a trial first
and let the caller sign it afterwards. A process killed between the two would leave a trial of which no one can tell
whether it is running. A search of n points also needs no queue of n trials in advance, whose parameters TPE cannot
know. RetryHeartbeatStaleTrialCallback covers databases with heartbeats only, while a journal has none.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    get_verdict,
    is_alive,
    is_first_attempt,
    is_superseded,
    remove_worker_folder,
)
from dlopt.sweep.samplers import Sampler
from dlopt.sweep.space import Space

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

MAX_TRIES = 3
"""Attempts at a point whose process is lost each time, before it counts as failed."""
REAP_INTERVAL = 10.0
"""Seconds between two searches for trials whose process is gone."""


class Study:
    """A study in a storage, seen by one of its processes; folder is the sweep's, total the number of points."""

    def __init__(
        self, storage: BaseStorage, study: OptunaStudy, space: Space, sampler: Sampler, total: int, folder: Path
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
        self._distributions = [axis.distribution() for axis in space.axes]
        self._names = [from_hydra(axis.key) for axis in space.axes]

    # ------------------------------------------------------------------------------------------- this process

    def __enter__(self) -> Study:
        self.lock.folder.mkdir(parents=True)
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        with contextlib.suppress(OSError):
            self.lock.folder.rmdir()

    # ------------------------------------------------------------------------------------------- what comes next

    def claim(self, harvest: Callable[[int], Outcome | None]) -> Trial | None:
        """Claim the next trial for this process; None if no point is left to begin.

        harvest returns the outcome of a trial, by its number, if all of its runs have ended: their process may have
        been killed before it could tell. Lost trials are reaped now and then, and before None is returned.
        """
        with exclusive(self.folder):
            is_recent = time.monotonic() - self._last_reap < REAP_INTERVAL
            trial = self._next() if is_recent else None
            if trial is None:
                self._last_reap = time.monotonic()
                self.reap_dead_trials(harvest)
                trial = self._next()
            return trial

    def _next(self) -> Trial | None:
        trials = self.trials()
        return self._claim_remaining(trials) or self._claim_new(trials)

    def _claim_remaining(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        """Claim a point that is to be tried again, or that was put back, in a signed trial of its own."""
        from optuna.trial import TrialState

        ordinals = assign_ordinals(trials)
        tried = {trial.user_attrs.get("instead_of") for trial in trials}
        for trial in trials:
            if ordinals[trial.number] >= self.total or trial.number in tried or not self._wants(trial, trials):
                continue
            attributes = {
                "worker": describe_worker(self.lock.folder),
                "instead_of": trial.number,
                "ordinal": ordinals[trial.number],
                "tries": trial.user_attrs.get("tries", 1) + trial.user_attrs.get("lost", False),
            }
            trial_id, number = self._create_trial(attributes)
            present = self.trials() if number != len(trials) else trials
            if any(t.number < number and t.user_attrs.get("instead_of") == trial.number for t in present):
                self._fail(trial_id)  # another process, whose directory is another, was faster
                continue
            if trial.state == TrialState.WAITING:
                self._fail(self._get_trial_id(trial.number))
            return self._start_trial(trial_id, number, attributes["ordinal"], attributes, self.point(trial))
        return None

    def _wants(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the point of a trial is still to be tried."""
        from optuna.trial import TrialState

        if trial.state == TrialState.WAITING:
            return True
        verdict = get_verdict(trial)
        lost = trial.state == TrialState.FAIL and verdict is None and not is_superseded(trial, trials)
        return lost or (verdict == "failed" and trial.number in self._retried_numbers)

    def _claim_new(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        from optuna.trial import TrialState

        if sum(1 for trial in trials if is_first_attempt(trial)) >= self.total:
            return None
        trial_id, number = self._create_trial({"worker": describe_worker(self.lock.folder)})
        before = self.trials() if number != len(trials) else trials
        ordinal = sum(1 for trial in before if is_first_attempt(trial) and trial.number < number)
        if ordinal >= self.total:  # another process, whose directory is another, was faster
            self.storage.set_trial_state_values(trial_id, TrialState.WAITING)
            return None
        return self._start_trial(trial_id, number, ordinal, {}, None)

    def _create_trial(self, attributes: Mapping[str, Any]) -> tuple[int, int]:
        """Create a running trial with these attributes in one operation, and return its id and number."""
        from optuna.trial import TrialState, create_trial

        template = create_trial(state=TrialState.RUNNING, user_attrs=dict(attributes))
        trial_id = self.storage.create_new_trial(self._id, template_trial=template)
        return trial_id, self.storage.get_trial_number_from_id(trial_id)

    def _get_trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _start_trial(
        self, trial: int, number: int, ordinal: int, attributes: Mapping[str, Any], known: Sequence[Any] | None
    ) -> Trial:
        self._send_heartbeat(trial)  # without a first one, machines that only see the database would wait for ever
        point = self._point(trial, ordinal, known)
        return Trial(trial, number, ordinal, point, attributes.get("tries", 1), attributes.get("instead_of"))

    def _point(self, trial: int, ordinal: int, known: Sequence[Any] | None) -> tuple[Any, ...]:
        """Return the point of an ordinal, after it is written to the storage."""
        point = samplers.sample(self.space, self.sampler, ordinal) if known is None else tuple(known)
        if point is None:
            return self._propose_point(trial, ordinal)
        for axis, name, distribution, value in zip(
            self.space.axes, self._names, self._distributions, point, strict=True
        ):
            internal = distribution.to_internal_repr(axis.parameter(value))
            self.storage.set_trial_param(trial, name, internal, distribution)
        return point

    def _propose_point(self, trial: int, ordinal: int) -> tuple[Any, ...]:
        """Return what TPE proposes after the results so far."""
        import optuna

        # A new Study sees all results: one that is not asked for trials keeps those of its first proposal.
        study = optuna.load_study(
            study_name=self.study.study_name,
            storage=self.storage,
            sampler=samplers.make_tpe_sampler(self.sampler, ordinal),
            pruner=self.study.pruner,
        )
        asked = optuna.trial.Trial(study, trial)
        return tuple(
            axis.value(axis.suggest(asked, name)) for axis, name in zip(self.space.axes, self._names, strict=True)
        )

    # ------------------------------------------------------------------------------------------- what has ended

    def tell(self, trial: Trial | int, outcome: Outcome) -> bool:
        """Write how a trial ended; False if it already counts as interrupted and is tried again elsewhere.

        A diverged trial is stored as pruned without a value: TPE avoids points like it.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        at = trial.id if isinstance(trial, Trial) else trial
        state = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(outcome.verdict, TrialState.PRUNED)
        try:
            self.storage.set_trial_user_attr(at, "outcome", outcome.verdict)
            if outcome.message:
                self.storage.set_trial_user_attr(at, "message", outcome.message)
            values = None if outcome.value is None else [outcome.value]
            return self.storage.set_trial_state_values(at, state, values)
        except UpdateFinishedTrialError:
            return False

    def interrupt(self, trial: Trial, *, lost: bool = False) -> None:
        """Give up a trial that did not end; its point is tried again.

        lost: its process ended by itself, which counts as an attempt.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        if lost and trial.tries >= MAX_TRIES:
            self.tell(trial, Outcome("failed", None, f"its process was lost {MAX_TRIES} times"))
            return
        if lost:
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(trial.id, "lost", True)
        self._fail(trial.id)

    def try_failed_again(self) -> None:
        """Try the points that have failed so far once more."""
        self._retried_numbers = {trial.number for trial in self.trials() if get_verdict(trial) == "failed"}

    def reap_dead_trials(self, harvest: Callable[[int], Outcome | None]) -> None:
        """End the trials whose process is gone: with the outcome of their runs, or as interrupted."""
        import optuna
        from optuna.trial import TrialState

        gone = set()
        for trial in self.trials():
            worker = trial.user_attrs.get("worker", {})
            if trial.state == TrialState.RUNNING and not is_alive(worker):
                gone.add(worker.get("folder"))
                outcome = harvest(trial.number)
                if outcome is not None:
                    self.tell(self._get_trial_id(trial.number), outcome)
                else:
                    self._fail(self._get_trial_id(trial.number))
        # Machines seen only in the database come last: a process that ended long ago sends no heartbeat either.
        optuna.storages.fail_stale_trials(self.study)
        for folder in filter(None, gone):
            remove_worker_folder(folder)

    def _fail(self, trial: int) -> bool:
        """Mark a trial as interrupted; False if another process has."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    # ------------------------------------------------------------------------------------------- looking

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def counts(self) -> Counts:
        from optuna.trial import TrialState

        trials = self.trials()
        ordinals = assign_ordinals(trials)
        latest = {
            ordinals[t.number]: t for t in trials if ordinals[t.number] < self.total and not is_superseded(t, trials)
        }
        counts = Counts(self.total)
        for trial in latest.values():
            verdict = get_verdict(trial)
            if trial.state == TrialState.RUNNING:
                counts.running += 1
            elif verdict is not None and not (verdict == "failed" and trial.number in self._retried_numbers):
                counts.by_verdict[verdict] = counts.by_verdict.get(verdict, 0) + 1
        return counts

    def point(self, trial: FrozenTrial) -> tuple[Any, ...] | None:
        """Return the point of a trial, or None if it was interrupted before its point was written."""
        known = trial.params
        if not all(name in known for name in self._names):
            return None
        return tuple(axis.value(known[name]) for axis, name in zip(self.space.axes, self._names, strict=True))

    def run_root(self, trial: FrozenTrial) -> tuple[Path, str]:
        """Return the sweep's directory with a trial's runs, and its host, empty if seen from here.

        Processes that share a database may each have a directory of their own.
        """
        worker = trial.user_attrs.get("worker")
        if worker is None or (self.folder / str(trial.number)).is_dir():
            return self.folder, ""
        folder = Path(worker["folder"]).parent.parent
        return folder, "" if worker["machine"] == get_machine_id() else worker["host"]

    def finished_ordinals(self) -> set[int]:
        """Return the ordinals of the points that have an outcome and are not to be tried once more."""
        trials = self.trials()
        ordinals = assign_ordinals(trials)
        return {
            ordinals[t.number] for t in trials if get_verdict(t) is not None and t.number not in self._retried_numbers
        }

    def best(self) -> FrozenTrial | None:
        """Return the trial with the best value, or None."""
        from optuna.study import StudyDirection
        from optuna.trial import TrialState

        done = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        sign = -1 if self.study.direction == StudyDirection.MAXIMIZE else 1
        return min(done, key=lambda t: sign * (t.value or 0.0), default=None)

    def send_heartbeats(self, running: Sequence[Trial]) -> None:
        """Send a heartbeat of running trials, for machines that see only the database."""
        for trial in running:
            self._send_heartbeat(trial.id)

    def _send_heartbeat(self, trial: int) -> None:
        if hasattr(self.storage, "record_heartbeat"):  # a database; a journal has none
            self.storage.record_heartbeat(trial)

"""A study: which points were tried, which are under way and by whom, and what comes next.

It lives in an Optuna storage. A point is known by its ordinal 0, 1, ..., and tried in a trial, whose number names the
run's directory. A trial whose process was killed, or stopped, is interrupted: it stays in the study as failed without
an outcome, and its point is tried again in a trial of a new number. So a study of n points ends with n outcomes, one
for each ordinal, whatever was killed on the way.

Several processes may work on one study. Numbers are given by the storage, in order and each once; the ordinal of a new
trial is the number of new trials before it. Whoever gets one too many puts it back, for a longer search to come.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from dlopt.config.compose.nested_options import from_hydra
from dlopt.rundir.lock import Lock, find_holder, get_machine_id
from dlopt.sweep import samplers
from dlopt.sweep.samplers import Sampler
from dlopt.sweep.space import Space

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

WORKERS = ".workers"
"""The folder, in that of a sweep, in which each of its processes holds a folder of its own."""
MAX_TRIES = 3
"""How often a point is tried whose process was lost, before it counts as failed."""
REAP_INTERVAL = 10.0
"""Seconds between two looks for trials whose process is gone."""

Direction = Literal["minimize", "maximize"]
Verdict = Literal["done", "pruned", "diverged", "failed"]
"""How a trial ended: all but failed and diverged have a value."""


class Outcome(NamedTuple):
    """How a trial ended, with the value that is optimized where there is one."""

    verdict: Verdict
    value: float | None
    message: str = ""


@dataclass(frozen=True)
class Trial:
    """A point under way: its trial's number, which names the directory, its ordinal, and the trial that it repeats."""

    id: int
    number: int
    ordinal: int
    point: tuple[Any, ...]
    tries: int = 1
    instead_of: int | None = None


@dataclass
class Counts:
    """How many points of a study are where."""

    total: int
    running: int = 0
    by_verdict: dict[str, int] = field(default_factory=dict)

    @property
    def n_ended(self) -> int:
        return sum(self.by_verdict.values())


class Study:
    """A study in a storage, and this process's part in it; folder is that of the sweep, total the points in all."""

    def __init__(
        self, storage: BaseStorage, study: OptunaStudy, space: Space, sampler: Sampler, total: int, folder: Path
    ) -> None:
        self.storage = storage
        self.study = study
        self.space = space
        self.sampler = sampler
        self.total = total
        self.folder = folder
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

    @property
    def _worker(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "machine": get_machine_id(),
            "pid": os.getpid(),
            "folder": str(self.lock.folder.resolve()),
        }

    # ------------------------------------------------------------------------------------------- what comes next

    def claim(self, harvest: Callable[[int], Outcome | None]) -> Trial | None:
        """The next trial, which is this process's from now on; None where no point is left to begin.

        harvest tells how the runs of a trial ended, by its number, if all of them did: their process may have been
        killed before it could say so. They are looked for now and then, and before it is said that nothing is left.
        """
        with exclusive(self.folder):
            lately = time.monotonic() - self._last_reap < REAP_INTERVAL
            found = self._next() if lately else None
            if found is None:
                self._last_reap = time.monotonic()
                self.reap_dead_trials(harvest)
                found = self._next()
            return found

    def _next(self) -> Trial | None:
        trials = self.trials()
        return self._claim_remaining(trials) or self._claim_new(trials)

    def _claim_remaining(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        """A point that is to be tried again, or that was put back: in a trial of its own, signed from the first."""
        from optuna.trial import TrialState, create_trial

        ordinals = _ordinals(trials)
        tried = {trial.user_attrs.get("instead_of") for trial in trials}
        for trial in trials:
            if ordinals[trial.number] >= self.total or trial.number in tried or not self._wants(trial, trials):
                continue
            told = {
                "worker": self._worker,
                "instead_of": trial.number,
                "ordinal": ordinals[trial.number],
                "tries": trial.user_attrs.get("tries", 1) + trial.user_attrs.get("lost", False),
            }
            template = create_trial(state=TrialState.RUNNING, user_attrs=told)
            made = self.storage.create_new_trial(self.study._study_id, template_trial=template)
            number = self.storage.get_trial_number_from_id(made)
            present = self.trials() if number != len(trials) else trials
            if any(t.number < number and t.user_attrs.get("instead_of") == trial.number for t in present):
                self._fail(made)  # another process, whose directory is another, was faster
                continue
            if trial.state == TrialState.WAITING:
                self._fail(trial._trial_id)
            return self._start_trial(made, number, told["ordinal"], told, self.point(trial))
        return None

    def _wants(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the point of a trial is still to be tried."""
        from optuna.trial import TrialState

        if trial.state == TrialState.WAITING:
            return True
        verdict = _verdict(trial)
        lost = trial.state == TrialState.FAIL and verdict is None and not _is_superseded(trial, trials)
        return lost or (verdict == "failed" and trial.number in self._retried_numbers)

    def _claim_new(self, trials: Sequence[FrozenTrial]) -> Trial | None:
        from optuna.trial import TrialState, create_trial

        if sum(1 for trial in trials if _is_new(trial)) >= self.total:
            return None
        template = create_trial(state=TrialState.RUNNING, user_attrs={"worker": self._worker})
        made = self.storage.create_new_trial(self.study._study_id, template_trial=template)
        number = self.storage.get_trial_number_from_id(made)
        before = self.trials() if number != len(trials) else trials
        ordinal = sum(1 for trial in before if _is_new(trial) and trial.number < number)
        if ordinal >= self.total:  # another process, whose directory is another, was faster
            self.storage.set_trial_state_values(made, TrialState.WAITING)
            return None
        return self._start_trial(made, number, ordinal, {}, None)

    def _start_trial(
        self, trial: int, number: int, ordinal: int, attributes: Mapping[str, Any], known: Sequence[Any] | None
    ) -> Trial:
        self._send_heartbeat(trial)  # without a first one, machines that see the database alone wait for ever
        point = self._point(trial, ordinal, known)
        return Trial(trial, number, ordinal, point, attributes.get("tries", 1), attributes.get("instead_of"))

    def _point(self, trial: int, ordinal: int, known: Sequence[Any] | None) -> tuple[Any, ...]:
        """The point of an ordinal, told to the storage."""
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
        """What TPE makes of the results so far."""
        import optuna

        self.study.sampler = samplers.make_tpe_sampler(self.sampler, ordinal)
        self.study._thread_local.cached_all_trials = None  # as asking it for a trial does: else it sees no new results
        asked = optuna.trial.Trial(self.study, trial)
        return tuple(
            axis.value(asked._suggest(name, distribution))
            for axis, name, distribution in zip(self.space.axes, self._names, self._distributions, strict=True)
        )

    # ------------------------------------------------------------------------------------------- what has ended

    def tell(self, trial: Trial | int, outcome: Outcome) -> bool:
        """Write how a trial ended; False where it counts as interrupted already, and is tried again elsewhere.

        A diverged trial is one that was pruned without a value: TPE keeps away from what is like it.
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
        """A trial that did not end: its point is tried again. lost: its process ended by itself, which may not go on
        for ever."""
        from optuna.exceptions import UpdateFinishedTrialError

        if lost and trial.tries >= MAX_TRIES:
            self.tell(trial, Outcome("failed", None, f"its process was lost {MAX_TRIES} times"))
            return
        if lost:
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(trial.id, "lost", True)
        self._fail(trial.id)

    def try_failed_again(self) -> None:
        """Have the points that have failed so far tried once more."""
        self._retried_numbers = {trial.number for trial in self.trials() if _verdict(trial) == "failed"}

    def reap_dead_trials(self, harvest: Callable[[int], Outcome | None]) -> None:
        """Trials whose process is gone end: as their runs did, or as interrupted, to be tried again."""
        import optuna
        from optuna.trial import TrialState

        gone = set()
        for trial in self.trials():
            worker = trial.user_attrs.get("worker", {})
            if trial.state == TrialState.RUNNING and not is_alive(worker):
                gone.add(worker.get("folder"))
                outcome = harvest(trial.number)
                if outcome is not None:
                    self.tell(trial._trial_id, outcome)
                else:
                    self._fail(trial._trial_id)
        # Only then those of machines that are only seen in the database: what ended before a night is silent, too.
        optuna.storages.fail_stale_trials(self.study)
        for folder in filter(None, gone):
            with contextlib.suppress(OSError):
                (Path(folder) / "lock.json").unlink(missing_ok=True)
                Path(folder).rmdir()

    def _fail(self, trial: int) -> bool:
        """Mark a trial as interrupted; False where another process has."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    # ------------------------------------------------------------------------------------------- looking

    def trials(self) -> list[FrozenTrial]:
        """Every trial, by its number."""
        return self.storage.get_all_trials(self.study._study_id, deepcopy=False)

    def counts(self) -> Counts:
        from optuna.trial import TrialState

        trials = self.trials()
        ordinals = _ordinals(trials)
        latest = {
            ordinals[t.number]: t for t in trials if ordinals[t.number] < self.total and not _is_superseded(t, trials)
        }
        found = Counts(self.total)
        for trial in latest.values():
            verdict = _verdict(trial)
            if trial.state == TrialState.RUNNING:
                found.running += 1
            elif verdict is not None and not (verdict == "failed" and trial.number in self._retried_numbers):
                found.by_verdict[verdict] = found.by_verdict.get(verdict, 0) + 1
        return found

    def point(self, trial: FrozenTrial) -> tuple[Any, ...] | None:
        """The point of a trial; None of one that was interrupted before it was told."""
        known = trial.params
        if not all(name in known for name in self._names):
            return None
        return tuple(axis.value(known[name]) for axis, name in zip(self.space.axes, self._names, strict=True))

    def run_root(self, trial: FrozenTrial) -> tuple[Path, str]:
        """The sweep's directory that holds a trial's runs, and the host that has it; empty where it is seen from here.

        Those who share a database may each have a directory of their own.
        """
        worker = trial.user_attrs.get("worker")
        if worker is None or (self.folder / str(trial.number)).is_dir():
            return self.folder, ""
        folder = Path(worker["folder"]).parent.parent
        return folder, "" if worker["machine"] == get_machine_id() else worker["host"]

    def finished_ordinals(self) -> set[int]:
        """The ordinals of the points that have an outcome, and are not to be tried once more."""
        trials = self.trials()
        ordinals = _ordinals(trials)
        return {ordinals[t.number] for t in trials if _verdict(t) is not None and t.number not in self._retried_numbers}

    def best(self) -> FrozenTrial | None:
        """The trial with the best value; None before there is one."""
        from optuna.study import StudyDirection
        from optuna.trial import TrialState

        done = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        sign = -1 if self.study.direction == StudyDirection.MAXIMIZE else 1
        return min(done, key=lambda t: sign * (t.value or 0.0), default=None)

    def send_heartbeats(self, running: Sequence[Trial]) -> None:
        """A sign of life of trials under way, for other machines that see nothing but the database."""
        for trial in running:
            self._send_heartbeat(trial.id)

    def _send_heartbeat(self, trial: int) -> None:
        from optuna.storages._heartbeat import BaseHeartbeat

        if isinstance(self.storage, BaseHeartbeat):
            self.storage.record_heartbeat(trial)


def is_alive(worker: Mapping[str, Any]) -> bool:
    """Whether the process of a trial is there, as far as can be seen from here."""
    folder = Path(str(worker.get("folder", "")))
    if worker.get("machine") == get_machine_id() or folder.is_dir():
        return find_holder(folder) is not None
    return bool(worker)  # of a machine that is only seen in a database, whose signs of life are looked at there


def load_or_create_study(
    storage: BaseStorage, name: str, direction: Direction, pruner: BasePruner, content: Mapping[str, Any]
) -> tuple[OptunaStudy, Mapping[str, Any]]:
    """The study of this name, and the content that it was made with, which is the given one where it is new."""
    import optuna

    for _ in range(50):
        study = load_study(storage, name, pruner)  # a look leaves no trace, which creating it again would
        if study is None:
            sampler = optuna.samplers.RandomSampler()
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=direction,
                pruner=pruner,
                sampler=sampler,
                load_if_exists=True,
            )
        found = study.user_attrs.get("dlopt")
        if found is not None:
            return study, found
        if study.get_trials(deepcopy=False):
            return study, {}  # made by another program
        study.set_user_attr("dlopt", dict(content))
    raise AssertionError("a study does not keep what it is told")


def load_study(storage: BaseStorage, name: str, pruner: BasePruner | None = None) -> OptunaStudy | None:
    """The study of this name, if there is one."""
    import optuna

    try:
        sampler = optuna.samplers.RandomSampler()
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    except KeyError:
        return None


def _is_new(trial: FrozenTrial) -> bool:
    """Whether it is the first trial of its point."""
    return "instead_of" not in trial.user_attrs


def _verdict(trial: FrozenTrial) -> str | None:
    """How a trial ended; None where it did not, even if its process was about to say so when it was lost."""
    from optuna.trial import TrialState

    told: str = trial.user_attrs.get("outcome", "")
    state = {"done": TrialState.COMPLETE, "failed": TrialState.FAIL}.get(told, TrialState.PRUNED)
    return told if told and trial.state == state else None


def _ordinals(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The ordinal of the point of each trial, by the trial's number."""
    found: dict[int, int] = {}
    new = 0
    for trial in trials:
        if _is_new(trial):
            found[trial.number] = new
            new += 1
        else:
            found[trial.number] = trial.user_attrs["ordinal"]
    return found


def _is_superseded(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether another trial, of a smaller number, stands in place of the same one: two processes have seen it die."""
    instead_of = trial.user_attrs.get("instead_of")
    return instead_of is not None and any(
        t.number < trial.number and t.user_attrs.get("instead_of") == instead_of for t in trials
    )


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Nobody else who sees this sweep's directory is in here. Where files cannot be locked, numbers keep the order."""
    file = folder / WORKERS / "claims"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

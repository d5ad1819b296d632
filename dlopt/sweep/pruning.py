"""Pruning: end runs early that do worse than others did at the same point.

After each evaluation a run reports the objective. If its trial has several runs, one after another, it reports the
mean (or median) of the values of the finished runs and its own. Evaluations are counted through all runs of a trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlopt.analysis.aggregate import aggregate_values
from dlopt.config.problems import Problems
from dlopt.metrics.names import Statistic
from dlopt.rundir.directory import Row
from dlopt.sweep.options import HyperbandOptions, MedianOptions
from dlopt.sweep.storage import open_storage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner


@dataclass(frozen=True)
class Pruner:
    """How runs are pruned."""

    name: Literal["none", "median", "hyperband"]
    median: MedianOptions
    hyperband: HyperbandOptions

    def to_optuna(self) -> BasePruner:
        """Make Optuna's pruner (median rule: Golovin et al. 2017; Hyperband: Li et al. 2018)."""
        from optuna import pruners

        if self.name == "median":  # Optuna counts evaluations from 0, dlopt from 1
            return pruners.MedianPruner(self.median.n_startup_trials, self.median.n_warmup_steps + 1)
        return pruners.HyperbandPruner(**asdict(self.hyperband)) if self.name == "hyperband" else pruners.NopPruner()


@dataclass(frozen=True)
class PruningTicket:
    """What a run needs to report: the trial in its study, and the pruner.

    before are the values of the trial's finished runs, evaluations is the number of their evaluations.
    """

    storage: str | None
    folder: Path
    study: str
    trial: int
    pruner: Pruner
    objective: str
    statistic: Statistic
    before: tuple[float, ...] = ()
    evaluations: int = 0

    def open_reporter(self) -> PruningReporter:
        """Open the study of the trial."""
        return PruningReporter(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the ticket as numbers and text."""
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PruningTicket:
        """Make a ticket from the content that `to_dict` has returned."""
        name, median, hyperband = content["pruner"].values()
        pruner = Pruner(name, MedianOptions(**median), HyperbandOptions(**hyperband))
        values = {"folder": Path(content["folder"]), "pruner": pruner, "before": tuple(content["before"])}
        return cls(**{**content, **values})


class PruningReporter:
    """Reports a run's evaluations to its study, and tells the run when to end."""

    def __init__(self, ticket: PruningTicket) -> None:
        import optuna

        self.ticket = ticket
        study = _open_study(ticket.storage, ticket.folder, ticket.study, ticket.pruner)
        self._trial = optuna.trial.Trial(study, ticket.trial)
        self._n_evaluations = ticket.evaluations

    def replay(self, rows: Iterable[Row]) -> bool:
        """Report the rows that the run has logged before it resumes, in a new trial of the study.

        The pruner judges each, since Hyperband notes the value at a rung when it does. Return its last judgement.
        """
        return [False, *map(self.should_prune, rows)][-1]

    def should_prune(self, row: Row) -> bool:
        """Report a row. Return whether the run is to end after it."""
        from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

        value = row.get(self.ticket.objective)
        if value is None or not math.isfinite(value):
            return False
        self._n_evaluations += 1
        value = aggregate_values([*self.ticket.before, value], self.ticket.statistic)
        # The run goes on while a database does not answer, or if another machine has given up its trial as lost.
        try:
            self._trial.report(value, self._n_evaluations)
            return self._trial.should_prune()
        except (StorageInternalError, UpdateFinishedTrialError):
            return False


@lru_cache(maxsize=1)
def _open_study(storage: str | None, folder: Path, name: str, pruner: Pruner) -> Study:
    """Open the study, once for all runs of a process."""
    import optuna

    problems = Problems()
    optuna_storage = open_storage(storage, folder, problems)
    problems.raise_if_any()
    assert optuna_storage is not None  # else there was a problem
    return optuna.load_study(
        study_name=name, storage=optuna_storage, sampler=optuna.samplers.RandomSampler(), pruner=pruner.to_optuna()
    )

"""Pruning: end runs early that do worse than others did at the same point.

After each evaluation a run reports the objective. If its trial has several runs, one after another, it reports the
mean (or median) of the values of the finished runs and its own. Evaluations are counted through all runs of a trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlopt.analysis.aggregate import aggregate_values
from dlopt.config.problems import Problems
from dlopt.metrics.names import Statistic
from dlopt.rundir.directory import Row
from dlopt.sweep.storage import open_storage

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner


@dataclass(frozen=True)
class Pruner:
    """How runs are pruned: name is none, median or hyperband.

    n_startup_trials   completed trials before the first may be pruned (median)
    n_warmup_steps     evaluations of a trial before it may be pruned (median)
    min_resource       evaluations before the first rung (hyperband)
    reduction_factor   one of so many trials reaches the next rung, at so many times the evaluations (hyperband)
    """

    name: Literal["none", "median", "hyperband"]
    n_startup_trials: int
    n_warmup_steps: int
    min_resource: int
    reduction_factor: int

    def to_optuna(self) -> BasePruner:
        """Make Optuna's pruner (median rule: Golovin et al. 2017; Hyperband: Li et al. 2018)."""
        from optuna import pruners

        if self.name == "median":  # Optuna counts evaluations from 0, dlopt from 1
            return pruners.MedianPruner(self.n_startup_trials, self.n_warmup_steps + 1)
        if self.name == "hyperband":
            return pruners.HyperbandPruner(min_resource=self.min_resource, reduction_factor=self.reduction_factor)
        return pruners.NopPruner()


@dataclass(frozen=True)
class PruningTicket:
    """What a run needs to report: the trial in its study, and the pruner.

    before are the values of the trial's runs that are over, evaluations how many evaluations they had.
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
        """The same as plain numbers and text."""
        return asdict(self) | {"folder": str(self.folder)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PruningTicket:
        """From its content."""
        made = {"folder": Path(content["folder"]), "pruner": Pruner(**content["pruner"])}
        return cls(**{**content, **made, "before": tuple(content["before"])})


class PruningReporter:
    """Reports a run's evaluations to its study, and says when it is to end."""

    def __init__(self, ticket: PruningTicket) -> None:
        import optuna

        self.ticket = ticket
        study = _study(ticket.storage, ticket.folder, ticket.study, ticket.pruner)
        self._trial = optuna.trial.Trial(study, ticket.trial)
        self._n_evaluations = ticket.evaluations

    def should_prune(self, row: Row) -> bool:
        """Whether the run is to end after this row."""
        from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

        value = row.get(self.ticket.objective)
        if value is None or not math.isfinite(value):
            return False
        self._n_evaluations += 1
        try:
            self._trial.report(
                aggregate_values([*self.ticket.before, value], self.ticket.statistic), self._n_evaluations
            )
            return self._trial.should_prune()
        except (StorageInternalError, UpdateFinishedTrialError):  # a database that is away for a moment ends no run,
            return False  # nor does a trial that another machine has given up for lost


@lru_cache(maxsize=1)
def _study(storage: str | None, folder: Path, name: str, pruner: Pruner) -> Study:
    """The study as one process sees it, opened once for all of its runs."""
    import optuna

    problems = Problems()
    found = open_storage(storage, folder, problems)
    problems.raise_if_any()
    assert found is not None  # else there was a problem
    return optuna.load_study(
        study_name=name, storage=found, sampler=optuna.samplers.RandomSampler(), pruner=pruner.to_optuna()
    )

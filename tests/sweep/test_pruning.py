"""Which runs are ended early, and what they report."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.config.problems import Problems
from dlopt.sweep import pruning, storage
from dlopt.sweep.pruning import Pruner, PruningReporter, PruningTicket
from dlopt.sweep.study import load_or_create_study

MEDIAN = Pruner("median", n_startup_trials=2, n_warmup_steps=1, min_resource=1, reduction_factor=2)


@pytest.fixture(autouse=True)
def _each_process_its_study():
    pruning._study.cache_clear()


def opened(folder: Path, pruner: Pruner, direction: Any = "minimize") -> optuna.Study:
    problems = Problems()
    found = storage.open_storage(None, folder, problems)
    assert found is not None
    return load_or_create_study(found, "it", direction, pruner.to_optuna(), {"axes": []})[0]


def ticket(folder: Path, trial: int, pruner: Pruner, **more: Any) -> PruningTicket:
    return PruningTicket(None, folder, "it", trial, pruner, "val/loss", "mean", **more)


def told(study: optuna.Study, folder: Path, pruner: Pruner, values: list[float]) -> int | None:
    """A trial that reports these values; the number of evaluations after which it is pruned, None if it is not."""
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(ticket(folder, trial, pruner))
    for done, value in enumerate(values, 1):
        if reporter.should_prune({"step": done, "val/loss": value}):
            study._storage.set_trial_state_values(trial, TrialState.PRUNED)
            return done
    study._storage.set_trial_state_values(trial, TrialState.COMPLETE, [values[-1]])
    return None


CURVES = [
    [3.0, 2.0, 1.0, 0.5], [9.0, 8.0, 7.0, 6.0], [5.0, 4.0, 3.0, 2.0], [4.0, 9.0, 9.0, 9.0], [6.0, 5.0, 5.0, 5.0],
    [1.0, 1.0, 1.0, 1.0], [8.0, 2.0, 2.0, 2.0], [2.0, 3.0, 4.0, 5.0],
]  # fmt: skip


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(("startup", "warmup"), [(2, 1), (1, 0), (3, 2), (0, 0)])
def test_the_median_rule(startup, warmup, direction, tmp_path):
    """A trial ends where its best value so far is worse than the median of what completed trials had by then."""
    pruner = Pruner("median", startup, warmup, 1, 2)
    study = opened(tmp_path, pruner, direction)
    sign = 1 if direction == "minimize" else -1
    complete: list[list[float]] = []
    for curve in CURVES:
        wanted = None
        for done in range(1, len(curve) + 1):
            if len(complete) >= max(startup, 1) and done > warmup:
                by_then = statistics.median(sign * former[done - 1] for former in complete)
                if min(sign * value for value in curve[:done]) > by_then:
                    wanted = done
                    break
        assert told(study, tmp_path, pruner, curve) == wanted
        if wanted is None:
            complete.append(curve)
    assert 0 < len(complete) < len(CURVES)


def test_hyperband_lets_one_of_so_many_go_on(tmp_path):
    """With as many brackets as there may be, whatever is pruned is pruned at a rung: 1, 3 or 9 evaluations."""
    pruner = Pruner("hyperband", 0, 0, min_resource=1, reduction_factor=3)
    study = opened(tmp_path, pruner)
    ended = [told(study, tmp_path, pruner, [float(n % 7)] * 9) for n in range(30)]
    assert set(ended) <= {None, 1, 3, 9}
    assert 5 < sum(done is not None for done in ended) < 30


def test_without_a_pruner_nothing_is_pruned(tmp_path):
    pruner = Pruner("none", 0, 0, 1, 2)
    study = opened(tmp_path, pruner)
    assert [told(study, tmp_path, pruner, curve) for curve in CURVES] == [None] * len(CURVES)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_trial_of_several_runs_reports_what_they_come_to_by_then(statistic, tmp_path):
    study = opened(tmp_path, MEDIAN)
    trial = study._storage.create_new_trial(study._study_id)
    before: list[float] = []
    wanted = []
    for curve in CURVES[:3]:
        told = {"before": tuple(before), "evaluations": len(wanted)}
        reporter = PruningReporter(PruningTicket(None, tmp_path, "it", trial, MEDIAN, "val/loss", statistic, **told))
        for value in curve:
            reporter.should_prune({"val/loss": value})
            wanted.append(aggregate_values([*before, value], statistic))
        before.append(curve[-1])
    found = study._storage.get_trial(trial).intermediate_values
    assert found == dict(enumerate(wanted, 1)), "evaluations are counted through all runs"


def test_a_row_without_the_objective_is_no_evaluation(tmp_path):
    study = opened(tmp_path, MEDIAN)
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(ticket(tmp_path, trial, MEDIAN))
    for row in ({"step": 1}, {"val/loss": math.nan}, {"val/loss": math.inf}, {"val/loss": 2.0}):
        assert not reporter.should_prune(row)
    assert study._storage.get_trial(trial).intermediate_values == {1: 2.0}


@pytest.mark.parametrize(
    "pruner", [MEDIAN, Pruner("hyperband", 0, 0, min_resource=1, reduction_factor=2)], ids=lambda p: p.name
)
def test_a_run_goes_on_whose_trial_was_given_up_for_lost(pruner, tmp_path):
    """Another machine, which had no sign of life of it, has ended the trial."""
    study = opened(tmp_path, pruner)
    assert told(study, tmp_path, pruner, CURVES[0]) is None
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(ticket(tmp_path, trial, pruner))
    study._storage.set_trial_state_values(trial, TrialState.FAIL)
    assert not any(reporter.should_prune({"val/loss": value}) for value in CURVES[1])


def test_a_ticket_comes_through_text_as_it_is():
    for before in ((), (0.1, 1e-300, math.inf)):
        made = PruningTicket("sqlite:///a b.db", Path("x/y"), "it", 3, MEDIAN, "val/loss", "median", before, 7)
        assert PruningTicket.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert PruningTicket.from_dict(ticket(Path("x"), 1, MEDIAN).to_dict()) == ticket(Path("x"), 1, MEDIAN)


@pytest.mark.parametrize(("objective", "worst"), [("val/loss", math.inf), ("val/accuracy", -math.inf)])
def test_runs_that_diverged_are_the_worst_in_what_the_next_ones_report(objective, worst):
    """As they are in what the trial comes to."""
    endings = [("done", {objective: 0.5}), ("diverged", {objective: math.nan}), ("diverged", {})]
    assert collect_objectives(endings, objective) == (0.5, worst, worst)

"""Pruners against what their rules say, and how runs report to them."""

import json
import math
import statistics
from pathlib import Path

import pytest
from optuna.trial import TrialState
from studies import make_pruner, open_study, open_study_storage

from dlopt.analysis.aggregate import aggregate_values, collect_objectives
from dlopt.sweep import pruning
from dlopt.sweep.pruning import PruningReporter, PruningTicket

MEDIAN = make_pruner("median", startup=2, warmup=1)
HYPERBAND = make_pruner("hyperband")


@pytest.fixture(autouse=True)
def _clear_cache():
    """Each test, as each process, opens its own study."""
    pruning._open_study.cache_clear()


def make_study(folder, pruner, direction="minimize"):
    return open_study(open_study_storage(None, folder), pruner=pruner, direction=direction)


def make_ticket(folder, trial, pruner, **more):
    keys = {"objective": "val/loss", "statistic": "mean"} | more
    return PruningTicket(None, folder, "it", trial, pruner, **keys)


def run_trial(study, folder, pruner, values):
    """Report these values; return the number of evaluations after which the trial is pruned, or None."""
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(make_ticket(folder, trial, pruner))
    for n, value in enumerate(values, 1):
        if reporter.should_prune({"step": n, "val/loss": value}):
            study._storage.set_trial_state_values(trial, TrialState.PRUNED)
            return n
    study._storage.set_trial_state_values(trial, TrialState.COMPLETE, [values[-1]])
    return None


CURVES = [
    [3.0, 2.0, 1.0, 0.5], [9.0, 8.0, 7.0, 6.0], [5.0, 4.0, 3.0, 2.0], [4.0, 9.0, 9.0, 9.0], [6.0, 5.0, 5.0, 5.0],
    [1.0, 1.0, 1.0, 1.0], [8.0, 2.0, 2.0, 2.0], [2.0, 3.0, 4.0, 5.0],
]  # fmt: skip


@pytest.mark.parametrize(
    ("startup", "warmup", "direction"), [(2, 1, "minimize"), (1, 0, "maximize"), (3, 2, "minimize"), (0, 0, "minimize")]
)
def test_the_median_rule(startup, warmup, direction, tmp_path):
    """A trial ends if its best value so far is worse than the median of the completed trials' values by then."""
    pruner = make_pruner("median", startup, warmup)
    study = make_study(tmp_path, pruner, direction)
    sign = 1 if direction == "minimize" else -1
    complete = []
    for curve in CURVES:
        expected = None
        for n in range(1, len(curve) + 1):
            if len(complete) >= max(startup, 1) and n > warmup:
                median = statistics.median(sign * former[n - 1] for former in complete)
                if min(sign * value for value in curve[:n]) > median:
                    expected = n
                    break
        assert run_trial(study, tmp_path, pruner, curve) == expected
        if expected is None:
            complete.append(curve)
    assert 0 < len(complete) < len(CURVES)


def test_hyperband_prunes_at_its_rungs(tmp_path):
    """With as many brackets as possible, each pruned trial ends at a rung: after 1, 3 or 9 evaluations."""
    pruner = make_pruner("hyperband", reduction=3)
    study = make_study(tmp_path, pruner)
    ends = [run_trial(study, tmp_path, pruner, [float(n % 7)] * 9) for n in range(20)]
    assert set(ends) <= {None, 1, 3, 9}
    assert 3 < sum(end is not None for end in ends) < 20


def test_without_a_pruner_nothing_is_pruned(tmp_path):
    study = make_study(tmp_path, make_pruner())
    assert [run_trial(study, tmp_path, make_pruner(), curve) for curve in CURVES] == [None] * len(CURVES)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_trial_of_several_runs_reports_the_value_of_all_so_far(statistic, tmp_path):
    """Evaluations are counted through all runs."""
    study = make_study(tmp_path, MEDIAN)
    trial = study._storage.create_new_trial(study._study_id)
    before, expected = [], []
    for curve in CURVES[:3]:
        more = {"before": tuple(before), "evaluations": len(expected), "statistic": statistic}
        reporter = PruningReporter(make_ticket(tmp_path, trial, MEDIAN, **more))
        for value in curve:
            reporter.should_prune({"val/loss": value})
            expected.append(aggregate_values([*before, value], statistic))
        before.append(curve[-1])
    assert study._storage.get_trial(trial).intermediate_values == dict(enumerate(expected, 1))


def test_a_row_without_a_finite_objective_is_not_an_evaluation(tmp_path):
    study = make_study(tmp_path, MEDIAN)
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(make_ticket(tmp_path, trial, MEDIAN))
    for row in ({"step": 1}, {"val/loss": math.nan}, {"val/loss": math.inf}, {"val/loss": 2.0}):
        assert not reporter.should_prune(row)
    assert study._storage.get_trial(trial).intermediate_values == {1: 2.0}


@pytest.mark.parametrize("pruner", [MEDIAN, HYPERBAND], ids=lambda p: p.name)
def test_a_run_goes_on_if_another_machine_has_given_up_its_trial(pruner, tmp_path):
    study = make_study(tmp_path, pruner)
    assert run_trial(study, tmp_path, pruner, CURVES[0]) is None
    trial = study._storage.create_new_trial(study._study_id)
    reporter = PruningReporter(make_ticket(tmp_path, trial, pruner))
    study._storage.set_trial_state_values(trial, TrialState.FAIL)
    assert not any(reporter.should_prune({"val/loss": value}) for value in CURVES[1])


@pytest.mark.parametrize("pruner", [MEDIAN, HYPERBAND], ids=lambda p: p.name)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_resumes_is_pruned_where_it_would_have_been(pruner, step, tmp_path):
    """In a new trial of the study, to which it reports again what it has logged."""
    whole, parts = (make_study(tmp_path / name, pruner) for name in ("whole", "parts"))
    for curve in CURVES:
        rows = [{"step": n, "val/loss": value} for n, value in enumerate(curve, 1)]
        expected = run_trial(whole, tmp_path / "whole", pruner, curve)
        if expected is not None and expected <= step:
            assert run_trial(parts, tmp_path / "parts", pruner, curve) == expected
            continue
        trial = parts._storage.create_new_trial(parts._study_id)
        reporter = PruningReporter(make_ticket(tmp_path / "parts", trial, pruner))
        reporter.replay([{"step": 0}, *rows[:step]])
        assert next((row["step"] for row in rows[step:] if reporter.should_prune(row)), None) == expected
        state, value = (TrialState.COMPLETE, [curve[-1]]) if expected is None else (TrialState.PRUNED, None)
        parts._storage.set_trial_state_values(trial, state, value)
        pruning._open_study.cache_clear()
    both = [[trial.intermediate_values for trial in study.get_trials()] for study in (whole, parts)]
    assert both[0] == both[1]


def test_a_ticket_survives_conversion_to_text():
    for before in ((), (0.1, 1e-300, math.inf)):
        ticket = PruningTicket("sqlite:///a b.db", Path("x/y"), "it", 3, MEDIAN, "val/loss", "median", before, 7)
        assert PruningTicket.from_dict(json.loads(json.dumps(ticket.to_dict()))) == ticket


@pytest.mark.parametrize(("objective", "worst"), [("val/loss", math.inf), ("val/accuracy", -math.inf)])
def test_diverged_runs_count_as_the_worst_in_later_reports(objective, worst):
    endings = [("done", {objective: 0.5}), ("diverged", {objective: math.nan}), ("diverged", {})]
    assert collect_objectives(endings, objective, higher_is_better=worst < 0) == (0.5, worst, worst)

"""The runs of a trial, and how the trial ends."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import make_pruner

from dlopt.rundir.writer import RunWriter
from dlopt.sweep.claims import Outcome
from dlopt.sweep.plan import Plan, Repeat, make_repeats, read_ending, summarize_outcome
from dlopt.sweep.space import Space

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=7)
DIVERGED = ("diverged", {"val/loss": math.nan})
FAILED = ("failed", {"message": "why\nwhere"})
PRUNED = ("pruned", {"val/loss": 2.0})


def make_done(*values, objective="val/loss"):
    return [("done", {objective: value}) for value in values]


@pytest.mark.parametrize(
    ("seeds", "folds", "repeats"),
    [
        ([], 0, {"": ()}),
        ([3, 5], 0, {"seed-3": ("seed=3",), "seed-5": ("seed=5",)}),
        ([], 2, {"fold-0": ("validation.fold=0",), "fold-1": ("validation.fold=1",)}),
        (
            [3, 5], 2,
            {f"seed-{s}-fold-{f}": (f"seed={s}", f"validation.fold={f}") for s in (3, 5) for f in range(2)},
        ),
    ],
)  # fmt: skip
def test_repeats_are_all_pairs_of_seeds_and_folds(seeds, folds, repeats):
    assert make_repeats(seeds, folds) == [Repeat(*pair) for pair in repeats.items()]


@given(VALUES)
def test_the_value_of_a_trial_is_the_mean_or_median_of_its_runs(values):
    assert summarize_outcome(make_done(*values), "val/loss", "mean", higher_is_better=False) == Outcome(
        "done", statistics.fmean(values)
    )
    assert summarize_outcome(make_done(*values), "val/loss", "median", higher_is_better=False) == Outcome(
        "done", statistics.median(values)
    )


@pytest.mark.parametrize(
    ("endings", "statistic", "outcome"),
    [
        ([*make_done(1, 2), DIVERGED], "mean", Outcome("diverged", None, "1 of 3 runs diverged")),
        ([DIVERGED], "mean", Outcome("diverged", None, "")),
        ([*make_done(1, 3), DIVERGED], "median", Outcome("done", 3.0)),
        ([*make_done(1), DIVERGED], "median", Outcome("diverged", None, "1 of 2 runs diverged")),
        ([*make_done(1), FAILED, DIVERGED], "median", Outcome("failed", None, "why")),
        ([*make_done(1), PRUNED], "mean", Outcome("pruned", 1.5)),
        ([("pruned", {})], "mean", Outcome("pruned", None)),
        ([("done", {"train/loss": 0.5})], "mean", Outcome("done", 0.5)),
        *(([("done", {"val/loss": value})], "mean", Outcome("diverged", None)) for value in (math.nan, None, "text")),
    ],
)
def test_the_outcome_of_a_trial(endings, statistic, outcome):
    assert summarize_outcome(endings, "val/loss", statistic, higher_is_better=False) == outcome


def test_a_diverged_run_has_the_worst_accuracy_and_a_training_loss_is_not_an_accuracy():
    """The median of three accuracies is the worse of the other two."""
    endings = [*make_done(1, 3, objective="val/accuracy"), ("diverged", {"val/accuracy": 2.0})]
    assert summarize_outcome(endings, "val/accuracy", "median", higher_is_better=True) == Outcome("done", 1.0)
    assert (
        summarize_outcome([("done", {"train/loss": 0.5})], "val/accuracy", "mean", higher_is_better=True).value is None
    )


@pytest.mark.parametrize(
    ("states", "statistic", "decided"),
    [
        (["done", "done"], "mean", False),
        (["done"] * 3, "mean", True),
        (["failed"], "median", True),
        (["pruned"], "median", True),
        (["diverged"], "median", False),
        (["diverged"], "mean", True),
    ],
)
def test_a_trial_ends_once_its_other_runs_cannot_change_how(states, statistic, decided):
    plan = Plan(
        Path(), Space((), ()), make_repeats([0, 1, 2], 0), "val/loss", False, statistic, make_pruner(), None, "it"
    )
    assert plan.is_decided([(state, {}) for state in states]) == decided


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("[1")])
def test_a_run_without_its_summary_has_not_ended(damage, tmp_path):
    """Its value is unknown; it would count as diverged."""
    run = RunWriter.create(tmp_path)
    run.finish("done", {"val/loss": 2.0})
    assert read_ending(tmp_path) == ("done", {"val/loss": 2.0})
    damage(run.summary_file)
    assert read_ending(tmp_path) is None


def test_a_failed_run_is_no_ending_of_a_retry(tmp_path):
    """It may have failed in the attempt before."""
    plan = Plan(tmp_path, Space((), ()), make_repeats([0, 1], 0), "val/loss", False, "mean", make_pruner(), None, "it")
    for repeat, status in zip(plan.repeats, ("done", "failed"), strict=True):
        run = RunWriter.create(plan.run_folder(3, repeat))
        run.finish(status, {"val/loss": 2.0}, "why")
    assert plan.read_outcome(3, is_retry=False) == Outcome("failed", None, "why")
    assert plan.read_outcome(3, is_retry=True) is None
    assert [repeat.name for repeat in plan.read_endings(3, is_retry=True)] == ["seed-0"]

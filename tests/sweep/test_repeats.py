"""The runs of a trial, and what they come to."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlopt.sweep.claims import Outcome
from dlopt.sweep.repeats import Repeat, make_repeats, summarize_outcome

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=7)


def done(*values: float, objective: str = "val/loss") -> list[tuple[str, dict[str, float]]]:
    return [("done", {objective: value}) for value in values]


DIVERGED = ("diverged", {"val/loss": math.nan})
FAILED = ("failed", {})


def test_without_repeats_the_run_is_the_trials_own():
    assert make_repeats([], 0) == [Repeat("", ())]


def test_seeds_folds_and_both():
    assert make_repeats([3, 5], 0) == [Repeat("seed-3", ("seed=3",)), Repeat("seed-5", ("seed=5",))]
    assert [repeat.name for repeat in make_repeats([], 3)] == ["fold-0", "fold-1", "fold-2"]
    assert make_repeats([], 2)[1].overrides == ("validation.fold=1",)
    both = make_repeats([3, 5], 2)
    assert [repeat.name for repeat in both] == ["seed-3-fold-0", "seed-3-fold-1", "seed-5-fold-0", "seed-5-fold-1"]
    assert both[2].overrides == ("seed=5", "validation.fold=0")


@given(VALUES)
def test_a_trial_comes_to_the_mean_or_median_of_its_runs(values):
    assert summarize_outcome(done(*values), "val/loss", "mean") == Outcome("done", statistics.fmean(values))
    assert summarize_outcome(done(*values), "val/loss", "median") == Outcome("done", statistics.median(values))


def test_a_mean_with_a_run_that_diverged_has_no_value():
    assert summarize_outcome([*done(1, 2), DIVERGED], "val/loss", "mean") == Outcome(
        "diverged", None, "1 of 3 runs diverged"
    )
    assert summarize_outcome([DIVERGED], "val/loss", "mean") == Outcome("diverged", None, "")


@pytest.mark.parametrize(("objective", "wanted"), [("val/loss", 3.0), ("val/accuracy", 1.0)])
def test_under_a_median_a_run_that_diverged_is_the_worst(objective, wanted):
    """The middle one of three is the worse of the two others."""
    endings = [*done(1, 3, objective=objective), ("diverged", {objective: 2.0})]
    assert summarize_outcome(endings, objective, "median") == Outcome("done", wanted)


def test_a_median_has_no_value_where_half_diverge():
    assert summarize_outcome([*done(1), DIVERGED], "val/loss", "median").verdict == "diverged"
    assert summarize_outcome([*done(1), DIVERGED, DIVERGED], "val/loss", "median").message == "2 of 3 runs diverged"


def test_a_run_whose_objective_is_no_number_counts_as_diverged():
    for value in (math.nan, math.inf, None, "text"):
        assert summarize_outcome([("done", {"val/loss": value})], "val/loss", "mean").verdict == "diverged"


def test_one_that_failed_makes_the_trial_fail():
    assert summarize_outcome([*done(1), FAILED, DIVERGED], "val/loss", "median") == Outcome("failed", None, "")
    assert summarize_outcome([FAILED], "val/loss", "mean") == Outcome("failed", None, "")


def test_one_that_was_pruned_ends_the_trial_with_what_there_is():
    assert summarize_outcome([*done(1), ("pruned", {"val/loss": 2.0})], "val/loss", "mean") == Outcome("pruned", 1.5)
    assert summarize_outcome([("pruned", {})], "val/loss", "mean") == Outcome("pruned", None)


def test_where_there_is_no_validation_split_the_training_loss_counts():
    assert summarize_outcome([("done", {"train/loss": 0.5})], "val/loss", "mean") == Outcome("done", 0.5)


def test_a_training_loss_is_no_accuracy():
    assert summarize_outcome([("done", {"train/loss": 0.5})], "val/accuracy", "mean").value is None

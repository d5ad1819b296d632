"""Early stopping on curves whose right end is known."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt.regularization.early_stopping import EarlyStopping

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure


def ends(curve, metric="val/loss", patience=3, cumulative=None, warmup_evaluations=0, check_every=1, min_delta=0.0):
    """The number of evaluations after which a run with this curve is stopped, or None."""
    rule = EarlyStopping(metric, patience, cumulative, warmup_evaluations, check_every, min_delta)
    history = [{metric: value, "train/loss": -i} for i, value in enumerate(curve)]
    return next((n for n in range(1, len(history) + 1) if rule.stop(history[:n])), None)


def test_a_falling_loss_is_never_stopped():
    assert ends([1 / n for n in range(1, 50)]) is None


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_it_stops_after_patience_evaluations_without_improvement(patience):
    assert ends([3, 2, 1] + [1.5] * 10, patience=patience) == 3 + patience
    assert ends([3, 2, 1] + [1.0] * 10, patience=patience) == 3 + patience


def test_an_improvement_starts_the_count_again():
    assert ends([5, 6, 6, 4, 6, 6, 3, 6, 6, 6]) == 10


def test_only_a_new_best_is_an_improvement():
    assert ends([1, 9, 5, 2]) == 4


def test_the_first_evaluations_are_not_looked_at():
    assert ends([0.0, 5, 5, 5, 5, 4, 3, 2, 1], warmup_evaluations=1) == 5
    assert ends([0.0, 5, 4, 3, 2, 1], warmup_evaluations=1) is None
    assert ends([0.0] + [9.0] * 20, warmup_evaluations=30) is None


def test_a_change_smaller_than_min_delta_is_no_improvement():
    slow = [1 - 0.01 * n for n in range(30)]
    assert ends(slow) is None
    assert ends(slow, min_delta=0.05, patience=3) == 4
    assert ends([1 - 0.1 * n for n in range(9)], min_delta=0.05) is None


def test_small_changes_add_up():
    """Each is measured from the best that counted, not from the evaluation before."""
    assert ends([1 - 0.03 * n for n in range(30)], min_delta=0.05, patience=3) is None


@pytest.mark.parametrize("metric", ["val/accuracy", "val/r2", "val/auc"])
def test_accuracy_improves_upwards(metric):
    assert ends([0.1 * n for n in range(1, 10)], metric) is None
    assert ends([0.9, 0.8, 0.7, 0.6], metric) == 4
    assert ends([0.5, 0.9, 0.9, 0.89, 0.9], metric) == 5


@pytest.mark.parametrize("metric", ["val/loss", "val/error"])
def test_losses_and_errors_improve_downwards(metric):
    assert ends([0.1 * n for n in range(1, 10)], metric) == 4


def test_a_loss_that_is_not_a_number_is_no_improvement():
    assert ends([1.0, float("nan"), float("nan"), float("nan")]) == 4


def test_nothing_is_stopped_before_the_first_evaluation():
    assert not EarlyStopping("val/loss", 1, None, 0, 1, 0.0).stop([])


@relaxed
@given(curve=st.lists(st.integers(0, 8), max_size=30), patience=st.integers(1, 5), warmup_evaluations=st.integers(0, 5))
def test_it_stops_exactly_when_the_best_lies_patience_evaluations_back(curve, patience, warmup_evaluations):
    looked = curve[warmup_evaluations:]
    stopped = EarlyStopping("val/loss", patience, None, warmup_evaluations, 1, 0.0).stop(
        [{"val/loss": float(v)} for v in curve]
    )
    since = len(looked) - 1 - looked.index(min(looked)) if looked else 0
    assert stopped is (since >= patience)


# ------------------------------------------------------------------------------------------- looks, and the sum


def test_it_looks_at_every_so_many_th_evaluation_alone():
    """Those after the ignored ones: 3, 6, 9, ... and of no account is what lies between."""
    assert ends([9, 9, 3, 0, 9, 2, 0, 9, 1], check_every=3, patience=1) is None
    assert ends([0, 0, 3, 0, 0, 2, 0, 0, 2.5, 0, 0, 2.5], check_every=3, patience=2) == 12
    assert ends([0, 0, 9, 9, 3, 9, 9, 4, 9, 9, 5], warmup_evaluations=2, check_every=3, patience=2) == 11


def test_without_patience_nothing_but_the_sum_stops_a_run():
    assert ends([1] + [5] * 50, patience=None, cumulative=60) is None
    assert ends([5] * 50, patience=None, cumulative=1) is None, "a sum of zero is not positive"


def test_cumulative_stops_when_the_metric_is_worse_than_so_many_looks_ago():
    down_and_up = [9, 7, 5, 4, 3, 4, 3, 4, 5, 6]
    assert ends(down_and_up, patience=None, cumulative=1) == 6
    assert ends(down_and_up, patience=None, cumulative=2) == 9, "4, 3, 4 is zero over two, 3, 4, 5 the first that grows"
    assert ends(down_and_up, patience=None, cumulative=3) == 8
    assert ends(down_and_up, patience=None, cumulative=9) is None
    assert ends([1 / n for n in range(1, 50)], patience=None, cumulative=3) is None


def test_cumulative_needs_as_many_differences_as_it_sums():
    assert ends([1, 2, 3, 4, 5], patience=None, cumulative=4) == 5
    assert ends([1, 2, 3, 4, 5], patience=None, cumulative=5) is None


def test_cumulative_counts_looks_and_not_evaluations():
    assert ends([0, 5, 0, 4, 0, 6], patience=None, cumulative=1, check_every=2) == 6
    assert ends([0, 1, 2, 5, 4, 3, 4], patience=None, cumulative=1, warmup_evaluations=3) == 7


def test_cumulative_of_an_accuracy_stops_when_it_falls():
    assert ends([0.1, 0.5, 0.8, 0.7], "val/accuracy", patience=None, cumulative=1) == 4


def test_whichever_of_both_holds_first_stops_the_run():
    assert ends([3, 2, 1, 1.5, 1.6, 1.4], patience=3, cumulative=4) == 6
    assert ends([3, 2, 1, 1.5, 1.6, 1.4], patience=9, cumulative=1) == 4


@relaxed
@given(curve=st.lists(st.integers(0, 8), max_size=30), n=st.integers(1, 5), check_every=st.integers(1, 3))
def test_it_stops_exactly_when_the_sum_of_the_one_step_differences_is_positive(curve, n, check_every):
    looks = [v for i, v in enumerate(curve, 1) if i % check_every == 0]
    steps = [b - a for a, b in zip(looks, looks[1:], strict=False)]
    rule = EarlyStopping("val/loss", None, n, 0, check_every, 0.0)
    assert rule.stop([{"val/loss": float(v)} for v in curve]) is (len(steps) >= n and sum(steps[-n:]) > 0)


def test_one_of_both_must_be_set():
    with pytest.raises(ValueError, match="patience and cumulative both null; set one"):
        EarlyStopping("val/loss", None, None, 0, 1, 0.0)

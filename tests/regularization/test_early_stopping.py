"""Early stopping on curves whose right end is known."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt.regularization.early_stopping import EarlyStopping

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure


def ends(curve, metric="val/loss", patience=3, ignore=0, min_change=0.0):
    """The number of evaluations after which a run with this curve is stopped, or None."""
    rule = EarlyStopping(metric, patience, ignore, min_change)
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
    assert ends([0.0, 5, 5, 5, 5, 4, 3, 2, 1], ignore=1) == 5
    assert ends([0.0, 5, 4, 3, 2, 1], ignore=1) is None
    assert ends([0.0] + [9.0] * 20, ignore=30) is None


def test_a_change_smaller_than_min_change_is_no_improvement():
    slow = [1 - 0.01 * n for n in range(30)]
    assert ends(slow) is None
    assert ends(slow, min_change=0.05, patience=3) == 4
    assert ends([1 - 0.1 * n for n in range(9)], min_change=0.05) is None


def test_small_changes_add_up():
    """Each is measured from the best that counted, not from the evaluation before."""
    assert ends([1 - 0.03 * n for n in range(30)], min_change=0.05, patience=3) is None


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
    assert not EarlyStopping("val/loss", 1, 0, 0.0).stop([])


@relaxed
@given(curve=st.lists(st.integers(0, 8), max_size=30), patience=st.integers(1, 5), ignore=st.integers(0, 5))
def test_it_stops_exactly_when_the_best_lies_patience_evaluations_back(curve, patience, ignore):
    looked = curve[ignore:]
    stopped = EarlyStopping("val/loss", patience, ignore, 0.0).stop([{"val/loss": float(v)} for v in curve])
    since = len(looked) - 1 - looked.index(min(looked)) if looked else 0
    assert stopped is (since >= patience)

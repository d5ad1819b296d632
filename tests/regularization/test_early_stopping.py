"""Early stopping on curves with a known end."""

import pytest
from helpers import make_counting_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt.parts import History
from dlopt.regularization.early_stopping import EarlyStopping

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def find_end(curve, metric="val/loss", patience=3, cumulative=None, warmup_evaluations=0, check_every=1, min_delta=0.0):
    """Return the number of evaluations after which a run with this curve ends, or None."""
    rule = EarlyStopping(metric, patience, cumulative, warmup_evaluations, check_every, min_delta)
    history = [{metric: value, "train/loss": -i} for i, value in enumerate(curve)]
    ends = [n for n in range(1, len(history) + 1) if rule.stop(history[:n])]
    running = History()
    for n, row in enumerate(history, 1):  # with running state: as from the start
        running = running.append(row)
        assert rule.stop(running) is (n in ends)
    return next(iter(ends), None)


NAN = float("nan")
SLOW = [1 - 0.01 * n for n in range(30)]
STAIRS = [9, 7, 5, 4, 3, 4, 3, 4, 5, 6]
ENDS = {
    "a falling loss never ends": ([1 / n for n in range(1, 50)], {}, None),
    "after one evaluation without improvement": ([3, 2, 1] + [1.5] * 10, {"patience": 1}, 4),
    "after five of them, equal ones included": ([3, 2, 1] + [1.0] * 10, {"patience": 5}, 8),
    "an improvement restarts the count": ([5, 6, 6, 4, 6, 6, 3, 6, 6, 6], {}, 10),
    "only a new best is an improvement": ([1, 9, 5, 2], {}, 4),
    "NaN is not an improvement": ([1.0, NAN, NAN, NAN], {}, 4),
    "the first evaluations are ignored": ([0.0, 5, 5, 5, 5, 4, 3, 2, 1], {"warmup_evaluations": 1}, 5),
    "the first evaluations set no best": ([0.0, 5, 4, 3, 2, 1], {"warmup_evaluations": 1}, None),
    "a run may be shorter than the warm-up": ([0.0] + [9.0] * 20, {"warmup_evaluations": 30}, None),
    "small changes count without min_delta": (SLOW, {}, None),
    "changes below min_delta do not count": (SLOW, {"min_delta": 0.05}, 4),
    "changes above min_delta count": ([1 - 0.1 * n for n in range(9)], {"min_delta": 0.05}, None),
    "small changes add up from the best": ([1 - 0.03 * n for n in range(30)], {"min_delta": 0.05}, None),
    "accuracy improves upwards": ([0.1 * n for n in range(1, 10)], {"metric": "val/accuracy"}, None),
    "accuracy falls": ([0.9, 0.8, 0.7, 0.6], {"metric": "val/accuracy"}, 4),
    "AUC stays": ([0.5, 0.9, 0.9, 0.89, 0.9], {"metric": "val/auc"}, 5),
    "R^2 falls": ([0.9, 0.8, 0.7, 0.6], {"metric": "val/r2"}, 4),
    "an error improves downwards": ([0.1 * n for n in range(1, 10)], {"metric": "val/error"}, 4),
    # checks at every k-th evaluation only
    "between checks": ([9, 9, 3, 0, 9, 2, 0, 9, 1], {"check_every": 3, "patience": 1}, None),
    "every third": ([0, 0, 3, 0, 0, 2, 0, 0, 2.5, 0, 0, 2.5], {"check_every": 3, "patience": 2}, 12),
    "every third after two": (
        [0, 0, 9, 9, 3, 9, 9, 4, 9, 9, 5],
        {"warmup_evaluations": 2, "check_every": 3, "patience": 2},
        11,
    ),
    # the sum of differences
    "patience is off": ([1] + [5] * 50, {"patience": None, "cumulative": 60}, None),
    "a sum of zero is not positive": ([5] * 50, {"patience": None, "cumulative": 1}, None),
    "worse than one check ago": (STAIRS, {"patience": None, "cumulative": 1}, 6),
    "worse than two checks ago": (STAIRS, {"patience": None, "cumulative": 2}, 9),
    "worse than three checks ago": (STAIRS, {"patience": None, "cumulative": 3}, 8),
    "never worse than nine checks ago": (STAIRS, {"patience": None, "cumulative": 9}, None),
    "four differences": ([1, 2, 3, 4, 5], {"patience": None, "cumulative": 4}, 5),
    "fewer than five differences": ([1, 2, 3, 4, 5], {"patience": None, "cumulative": 5}, None),
    "differences of checks": ([0, 5, 0, 4, 0, 6], {"patience": None, "cumulative": 1, "check_every": 2}, 6),
    "differences after the warm-up": (
        [0, 1, 2, 5, 4, 3, 4],
        {"patience": None, "cumulative": 1, "warmup_evaluations": 3},
        7,
    ),
    "the sum of an accuracy falls": (
        [0.1, 0.5, 0.8, 0.7],
        {"metric": "val/accuracy", "patience": None, "cumulative": 1},
        4,
    ),
    "patience comes first": ([3, 2, 1, 1.5, 1.6, 1.4], {"patience": 3, "cumulative": 4}, 6),
    "the sum comes first": ([3, 2, 1, 1.5, 1.6, 1.4], {"patience": 9, "cumulative": 1}, 4),
}
"""A curve, the keys, and the number of evaluations after which the run ends."""


@pytest.mark.parametrize("case", ENDS)
def test_a_run_ends_where_it_should(case):
    curve, keys, last = ENDS[case]
    assert find_end(curve, **keys) == last


def test_no_run_ends_before_the_first_evaluation():
    assert not EarlyStopping("val/loss", 1, None, 0, 1, 0.0).stop([])


@relaxed
@given(curve=st.lists(st.integers(0, 8), max_size=30), patience=st.integers(1, 5), warmup_evaluations=st.integers(0, 5))
def test_it_stops_exactly_when_the_best_lies_patience_evaluations_back(curve, patience, warmup_evaluations):
    checks = curve[warmup_evaluations:]
    stopped = EarlyStopping("val/loss", patience, None, warmup_evaluations, 1, 0.0).stop(
        [{"val/loss": float(v)} for v in curve]
    )
    since = len(checks) - 1 - checks.index(min(checks)) if checks else 0
    assert stopped is (since >= patience)


@relaxed
@given(curve=st.lists(st.integers(0, 8), max_size=30), n=st.integers(1, 5), check_every=st.integers(1, 3))
def test_it_stops_exactly_when_the_sum_of_the_one_step_differences_is_positive(curve, n, check_every):
    checks = [v for i, v in enumerate(curve, 1) if i % check_every == 0]
    steps = [b - a for a, b in zip(checks, checks[1:], strict=False)]
    rule = EarlyStopping("val/loss", None, n, 0, check_every, 0.0)
    assert rule.stop([{"val/loss": float(v)} for v in curve]) is (len(steps) >= n and sum(steps[-n:]) > 0)


@relaxed
@given(
    curve=st.lists(st.integers(0, 9) | st.none(), max_size=40),
    cumulative=st.integers(1, 3) | st.none(),
    warmup_evaluations=st.integers(0, 2),
    check_every=st.integers(1, 2),
)
def test_evaluations_without_the_metric_do_not_count(curve, cumulative, warmup_evaluations, check_every):
    """As those before the first averaged iterate."""
    rule = EarlyStopping("average/val/loss", 2, cumulative, warmup_evaluations, check_every, 0.0)
    rows = [{"val/loss": 1.0} if v is None else {"average/val/loss": v} for v in curve]
    assert rule.stop(rows) == rule.stop([row for row in rows if "average/val/loss" in row])


def test_one_of_patience_and_cumulative_must_be_set():
    with pytest.raises(ValueError, match="patience and cumulative"):
        EarlyStopping("val/loss", None, None, 0, 1, 0.0)


def test_an_evaluation_reads_a_constant_number_of_rows():
    Row = make_counting_row()
    rule, history = EarlyStopping("val/loss", 5, 7, 3, 2, 0.0), History()
    for n in range(200):
        history = history.append(Row({"val/loss": 1 / (n + 1)}))
        assert not rule.stop(history)
    assert Row.reads <= 3 * 200

"""Effects, importance, borders and divergence of a search, against numbers worked out by hand."""

import math
import random

import pytest

from dlopt.analysis import importance
from dlopt.analysis.importance import compute_importance, find_borders, find_divergence, group_by_level
from dlopt.analysis.search_axis import SearchAxis, make_choice_axis
from dlopt.analysis.search_record import SearchRecord, TrialRecord

RATE = SearchAxis("optimizer.lr", (), 1e-4, 10.0, log=True)
RULE = SearchAxis("optimizer", ("sgd", "adam"))
DEPTH = SearchAxis("arch.depth", (), 1.0, 8.0, whole=True)


def search(axes, points, *, higher=False):
    """Return a search with trials (point, value); a text in place of the value is the state of a trial without one."""
    trials = [
        TrialRecord(i, None, (), p, v if isinstance(v, str) else "done", None if isinstance(v, str) else v)
        for i, (p, v) in enumerate(points)
    ]
    return SearchRecord(None, tuple(axes), "val/loss", higher, tuple(trials))


def group(axis, points):
    """Return the levels of an axis for trials (its value, objective)."""
    return group_by_level(axis, search([axis], [({axis.key: x}, v) for x, v in points]).trials)


def test_effects_of_a_choice():
    sgd, adam = group(RULE, (
        ("adam", 4.0), ("sgd", 3.0), ("adam", 1.0), ("adam", 2.0), ("adam", 9.0), ("sgd", "diverged"), ("sgd", "failed"))
    )  # fmt: skip
    assert (sgd.name, sgd.position, sgd.values, sgd.n_diverged, sgd.n_ended, sgd.sd) == ("sgd", 0.0, [3.0], 1, 2, None)
    assert (adam.mean, adam.median, adam.best(False), adam.best(True)) == (4.0, 3.0, 1.0, 9.0)
    assert adam.sd == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3))
    (level,) = group_by_level(RULE, [TrialRecord(0, None, (), {"optimizer": "sgd"}, "done", 1.0, 0.25)])
    assert level.sd == 0.25, "of one trial: over its repeats"
    assert group_by_level(RULE, search([RULE], [({}, 1.0)]).trials) == [], "without the hyperparameter"


def test_bins_are_of_equal_width_on_the_scale_of_the_axis():
    """Decades of a logarithm from 1e-4 to 10, the last one with its end; a number outside is in the nearest bin."""
    levels = group(RATE, [(x, x) for x in (1e-4, 9.9e-4, 1.001e-3, 0.05, 10.0, 3.0, 99.0, 1e-9)])
    assert [(level.name, level.values) for level in levels] == [
        ("0.0001..0.001", [1e-4, 9.9e-4, 1e-9]), ("0.001..0.01", [1.001e-3]), ("0.01..0.1", [0.05]),
        ("1..10", [10.0, 3.0, 99.0]),
    ]  # fmt: skip
    assert levels[0].position == pytest.approx(10**-3.5)
    levels = group(SearchAxis("x", (), 0.0, 10.0), [(float(x), 0.0) for x in (0, 1.9, 2, 7, 10)])
    assert [(level.low, level.high, len(level.trials), level.position) for level in levels] == [
        (0.0, 2.0, 2, 1.0), (2.0, 4.0, 1, 3.0), (6.0, 8.0, 1, 7.0), (8.0, 10.0, 1, 9.0),
    ]  # fmt: skip


def test_a_value_on_the_edge_of_two_bins_is_in_the_upper_one():
    """(1.2 - 1) / (2 - 1) is 0.19999999999999996."""
    for start in (0.0, 1.0, 10.0):
        levels = group(SearchAxis("x", (), start, start + 1.0), [(start + k / 20, float(k)) for k in range(21)])
        assert [level.values for level in levels] == [[4.0 * i + j for j in range(4 + (i == 4))] for i in range(5)]


def test_only_many_whole_numbers_are_binned():
    assert [(v.name, len(v.trials)) for v in group(DEPTH, [(3.0, 0.0), (1.0, 0.0), (3.0, 0.0)])] == [("1", 1), ("3", 2)]
    many = SearchAxis("w", (), 1.0, 101.0, whole=True)
    assert [v.name for v in group(many, [(20.0, 0.0), (21.0, 0.0), (101.0, 0.0)])] == ["1..20", "21..40", "81..101"]
    assert [make_choice_axis("x", [str(x) for x in range(n)]).is_binned for n in (12, 13)] == [False, True]


# ------------------------------------------------------------------------------------------------ importance


def sample(count, value, *, higher=False):
    """Return random points of a rate, an optimizer and a depth, with the values of a function."""
    rng = random.Random(0)
    points = [
        {"optimizer.lr": 10 ** rng.uniform(-4, 1), "optimizer": rng.choice(RULE.values),
         "arch.depth": float(rng.randint(1, 8))} for _ in range(count)
    ]  # fmt: skip
    return search([RATE, RULE, DEPTH], [(p, value(p)) for p in points], higher=higher)


def get_depth(point):
    return point["arch.depth"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", lambda p: abs(math.log10(p["optimizer.lr"]) + 2) + 0.05 * p["arch.depth"]),
        ("optimizer", lambda p: 5.0 * (p["optimizer"] == "sgd") + 0.05 * p["arch.depth"]),
        ("arch.depth", lambda p: p["arch.depth"] + 0.1 * (p["optimizer"] == "sgd")),
    ],
)
def test_the_dominant_hyperparameter_is_the_most_important(key, value):
    shares, method = compute_importance(sample(60, value))
    assert next(iter(shares)) == key
    assert shares[key] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert "fANOVA" in method
    assert "60 trials" in method


def test_importance_is_the_same_each_time_and_for_any_scale_of_the_metric():
    def value(p):
        return abs(math.log10(p["optimizer.lr"]) + 2) + 0.3 * p["arch.depth"]

    once = compute_importance(sample(40, value))
    assert compute_importance(sample(40, value)) == once
    assert compute_importance(sample(40, lambda p: math.exp(5 * value(p)))) == once
    assert compute_importance(sample(40, lambda p: -value(p), higher=True)) == once


@pytest.mark.parametrize("state", ["diverged", "pruned", "failed", "running", "interrupted", "dead"])
def test_a_trial_that_diverged_is_the_worst_and_others_without_a_value_do_not_count(state):
    shares, method = compute_importance(
        sample(60, lambda p: state if p["optimizer"] == "sgd" else 1.0 + 0.01 * p["arch.depth"])
    )
    if state == "diverged":
        assert max(shares, key=shares.get) == "optimizer"
        assert "60 trials, diverged ones as the worst" in method
    else:
        assert "optimizer" not in shares


def test_without_enough_trials_axes_or_different_values_there_is_no_importance(monkeypatch):
    shares, method = compute_importance(sample(11, get_depth))
    assert shares == {}
    assert "12 trials" in method
    assert "there are 11" in method
    assert compute_importance(sample(12, get_depth))[0]
    assert "the same val/loss" in compute_importance(sample(20, lambda p: 1.0))[1]
    assert compute_importance(search([RATE], [({"optimizer.lr": 0.1 * i}, float(i)) for i in range(1, 30)])) == ({}, "")
    incomplete = sample(30, get_depth)
    del incomplete.trials[3].point["optimizer"]
    shares, method = compute_importance(incomplete)
    assert shares.keys() == {"arch.depth", "optimizer.lr"}
    assert "without optimizer, " in method
    monkeypatch.setattr(importance, "MAX_TRIALS", 30)
    shares, method = compute_importance(sample(100, get_depth))
    assert next(iter(shares)) == "arch.depth"
    assert "30 trials" in method, "a subset of many"


def test_equal_values_share_their_rank():
    assert importance._rank([0.3, None, 0.1, 0.3, None], higher=False) == [1.5, 3.5, 0.0, 1.5, 3.5]
    assert importance._rank([0.3, None, 0.1], higher=True) == [0.0, 2.0, 1.0]


# ------------------------------------------------------------------------------------------------ warnings

GRID = make_choice_axis("optimizer.lr", ["0.1", "0.001", "0.01"])
DROPOUT = make_choice_axis("dropout.rate", ["0", "0.1", "0.2"])


@pytest.mark.parametrize(
    ("axis", "value", "upper"),
    [
        (RATE, 10**-3.76, False), (RATE, 10**-3.74, None), (RATE, 10**0.74, None), (RATE, 10**0.76, True),
        (DEPTH, 8.0, True), (DEPTH, 7.0, None), (GRID, 0.001, False), (GRID, 0.01, None), (GRID, 0.1, True),
        (make_choice_axis("optimizer.lr", ["0.1", "0.001"]), 0.1, None), (RULE, "adam", None),
        (DROPOUT, 0.0, None), (DROPOUT, 0.2, True),
        (make_choice_axis("data.train_size", ["100", "200", "400"]), 400.0, None), (RATE, None, None),
    ],
)  # fmt: skip
def test_the_best_on_a_border(axis, value, upper):
    """The outer 5 % of five decades end at 10^-3.75 and 10^0.75; 0 and data have no border; None: there is no best."""
    points = [({axis.key: value}, 0.1), ({axis.key: 3.0}, 0.9)] if value is not None else [({axis.key: 1e-4}, "failed")]
    borders = [(b.value, b.upper) for b in find_borders(search([axis], points))]
    assert borders == ([] if upper is None else [(value, upper)])


def test_the_range_in_which_trials_diverge():
    """Both upper bins of the rate hold five of six diverged trials and one of eight others."""
    points = [({"optimizer.lr": x, "optimizer": "sgd"}, 1.0) for x in [1e-4] * 7 + [0.5]]
    points += [({"optimizer.lr": x, "optimizer": "adam"}, "diverged") for x in (0.5, 0.5, 5.0, 5.0, 5.0, 1e-4)]
    region = find_divergence(search([RATE], points))
    assert (region.axis, region.first.low, region.last.high) == (RATE, pytest.approx(0.1), pytest.approx(10.0))
    assert (region.n_diverged, region.n_ended) == (5, 6)
    region = find_divergence(search([RATE, RULE], points))
    assert (region.axis, region.first.name, region.n_diverged, region.n_ended) == (RULE, "adam", 6, 6)
    both = [({"optimizer": o}, v) for o in ("sgd", "adam") for v in (1.0, "diverged", "diverged")]
    for rare_or_everywhere in (both, both[:3], [({"optimizer": "sgd"}, "diverged")] * 5):
        assert find_divergence(search([RULE], rare_or_everywhere)) is None


def test_divergence_is_not_attributed_to_values_of_a_hyperparameter_that_stable_trials_lack():
    """All trials with momentum diverge, whatever its value is: the optimizer is the cause."""
    momentum = SearchAxis("optimizer.momentum", (0.5, 0.9), 0.5, 0.9)
    rule = SearchAxis("optimizer", ("sgd", "momentum"))
    points = [({"optimizer": "sgd"}, 1.0)] * 4
    points += [({"optimizer": "momentum", "optimizer.momentum": x}, "diverged") for x in (0.5, 0.5, 0.9)]
    region = find_divergence(search([momentum, rule], points))
    assert (region.axis, region.first.name) == (rule, "momentum")
    assert find_divergence(search([momentum], points)) is None
    points += [({"optimizer": "momentum", "optimizer.momentum": 0.1 * x}, 1.0) for x in range(4)]
    region = find_divergence(search([momentum, rule], points))
    assert (region.axis, region.first.name, region.last.name) == (momentum, "0.5", "0.9")


def test_the_number_of_trials_as_good_as_the_best():
    trials = tuple(
        TrialRecord(i, None, (), {}, "done", v, sd) for i, (v, sd) in enumerate([(1.0, 0.5), (1.4, 9.0), (1.6, 9.0)])
    )
    assert importance.count_level_with_best(SearchRecord(None, (), "val/loss", False, trials)) == 2
    assert importance.count_level_with_best(search([], [({}, 1.0)])) == 0

"""What is said of a search, against numbers worked out by hand."""

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
    """Trials by point and value; a text in place of the value is the state of a trial that has none."""
    trials = [
        TrialRecord(i, None, (), p, v if isinstance(v, str) else "done", None if isinstance(v, str) else v)
        for i, (p, v) in enumerate(points)
    ]
    return SearchRecord(None, tuple(axes), "val/loss", higher, tuple(trials))


def test_effects_of_a_choice():
    found = search([RULE], [({"optimizer": o}, v) for o, v in (
        ("adam", 4.0), ("sgd", 3.0), ("adam", 1.0), ("adam", 2.0), ("adam", 9.0), ("sgd", "diverged"), ("sgd", "failed"))
    ])  # fmt: skip
    sgd, adam = group_by_level(RULE, found.trials)
    assert (sgd.name, sgd.position, sgd.values, sgd.n_diverged, sgd.n_ended, sgd.sd) == (
        "sgd", 0.0, [3.0], 1, 2, None,
    )  # fmt: skip
    assert (adam.mean, adam.median, adam.best(False), adam.best(True)) == (
        4.0, 3.0, 1.0, 9.0,
    )  # fmt: skip
    assert adam.sd == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3))


def test_bins_are_of_equal_width_in_the_scale_of_the_axis():
    """Decades of a logarithm from 1e-4 to 10, the end in the last; a number outside counts at the end beside it."""
    rates = [1e-4, 9.9e-4, 1.001e-3, 0.05, 10.0, 3.0, 99.0, 1e-9]
    found = group_by_level(RATE, search([RATE], [({"optimizer.lr": x}, x) for x in rates]).trials)
    assert [(level.name, level.values) for level in found] == [
        ("0.0001..0.001", [1e-4, 9.9e-4, 1e-9]), ("0.001..0.01", [1.001e-3]), ("0.01..0.1", [0.05]),
        ("1..10", [10.0, 3.0, 99.0]),
    ]  # fmt: skip
    assert found[0].position == pytest.approx(10**-3.5)
    plain = SearchAxis("x", (), 0.0, 10.0)
    found = group_by_level(plain, search([plain], [({"x": float(x)}, 0.0) for x in (0, 1.9, 2, 7, 10)]).trials)
    assert [(level.low, level.high, len(level.trials), level.position) for level in found] == [
        (0.0, 2.0, 2, 1.0), (2.0, 4.0, 1, 3.0), (6.0, 8.0, 1, 7.0), (8.0, 10.0, 1, 9.0),
    ]  # fmt: skip


def test_few_whole_numbers_stand_for_themselves_and_many_are_binned():
    points = [({"arch.depth": float(x)}, 0.0) for x in (3, 1, 3)]
    assert [(level.name, len(level.trials)) for level in group_by_level(DEPTH, search([DEPTH], points).trials)] == [
        ("1", 1),
        ("3", 2),
    ]
    many = SearchAxis("w", (), 1.0, 101.0, whole=True)
    found = group_by_level(many, search([many], [({"w": float(x)}, 0.0) for x in (20, 21, 101)]).trials)
    assert [level.name for level in found] == ["1..20", "21..40", "81..101"]
    grid = make_choice_axis("x", [str(x) for x in range(13)])
    assert grid.is_binned
    assert not make_choice_axis("x", [str(x) for x in range(12)]).is_binned


def test_a_level_of_one_trial_has_its_deviation_over_repeats():
    trial = TrialRecord(0, None, (), {"optimizer": "sgd"}, "done", 1.0, 0.25)
    (level,) = group_by_level(RULE, [trial])
    assert level.sd == 0.25


def test_trials_without_the_hyperparameter_are_in_no_level():
    assert group_by_level(RULE, search([RULE], [({}, 1.0)]).trials) == []


# ------------------------------------------------------------------------------------------------ importance


def mixed(count, value, *, higher=False):
    """Random points of a rate, a rule and a depth, with the values that a function gives."""
    rng = random.Random(0)
    points = [
        {"optimizer.lr": 10 ** rng.uniform(-4, 1), "optimizer": rng.choice(RULE.values),
         "arch.depth": float(rng.randint(1, 8))} for _ in range(count)
    ]  # fmt: skip
    return search([RATE, RULE, DEPTH], [(p, value(p)) for p in points], higher=higher)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", lambda p: abs(math.log10(p["optimizer.lr"]) + 2) + 0.05 * p["arch.depth"]),
        ("optimizer", lambda p: 5.0 * (p["optimizer"] == "sgd") + 0.05 * p["arch.depth"]),
        ("arch.depth", lambda p: p["arch.depth"] + 0.1 * (p["optimizer"] == "sgd")),
    ],
)
def test_what_dominates_is_the_most_important(key, value):
    shares, said = compute_importance(mixed(60, value))
    assert next(iter(shares)) == key
    assert shares[key] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert "fANOVA" in said
    assert "60 trials" in said


def test_importance_is_the_same_each_time_and_for_any_scale_of_the_metric():
    def value(p):
        return abs(math.log10(p["optimizer.lr"]) + 2) + 0.3 * p["arch.depth"]

    once = compute_importance(mixed(40, value))
    assert compute_importance(mixed(40, value)) == once
    assert compute_importance(mixed(40, lambda p: math.exp(5 * value(p)))) == once
    assert compute_importance(mixed(40, lambda p: -value(p), higher=True)) == once


def test_a_trial_that_diverged_counts_as_the_worst_and_others_without_a_value_do_not():
    def told(state):
        return compute_importance(
            mixed(60, lambda p: state if p["optimizer"] == "sgd" else 1.0 + 0.01 * p["arch.depth"])
        )

    shares, said = told("diverged")
    assert max(shares, key=shares.get) == "optimizer"
    assert "60 trials, diverged ones as the worst" in said
    for state in ("pruned", "failed", "running", "interrupted", "dead"):
        shares, _ = told(state)
        assert "optimizer" not in shares


def test_too_few_trials_say_so():
    shares, said = compute_importance(mixed(11, lambda p: p["arch.depth"]))
    assert shares == {}
    assert "12 trials" in said
    assert "there are 11" in said
    assert compute_importance(mixed(12, lambda p: p["arch.depth"]))[0]


def test_equal_values_and_a_single_hyperparameter_have_no_importance():
    assert "the same val/loss" in compute_importance(mixed(20, lambda p: 1.0))[1]
    assert compute_importance(search([RATE], [({"optimizer.lr": 0.1 * i}, float(i)) for i in range(1, 30)])) == ({}, "")


def test_a_hyperparameter_that_some_trials_lack_is_left_out_and_named():
    found = mixed(30, lambda p: p["arch.depth"])
    del found.trials[3].point["optimizer"]
    shares, said = compute_importance(found)
    assert shares.keys() == {"arch.depth", "optimizer.lr"}
    assert "without optimizer, " in said


def test_many_trials_are_thinned_out(monkeypatch):
    monkeypatch.setattr(importance, "MAX_TRIALS", 30)
    shares, said = compute_importance(mixed(100, lambda p: p["arch.depth"]))
    assert next(iter(shares)) == "arch.depth"
    assert "30 trials" in said


def test_ranks_share_their_places():
    assert importance._rank([0.3, None, 0.1, 0.3, None], higher=False) == [1.5, 3.5, 0.0, 1.5, 3.5]
    assert importance._rank([0.3, None, 0.1], higher=True) == [0.0, 2.0, 1.0]


# ------------------------------------------------------------------------------------------------ warnings


def at_best(axis, value):
    return [
        (b.value, b.upper) for b in find_borders(search([axis], [({axis.key: value}, 0.1), ({axis.key: 3.0}, 0.9)]))
    ]


def test_the_best_on_the_border_of_an_interval():
    """The outer 5 % of five decades: up to 10^-3.75, and from 10^0.75 on."""
    assert at_best(RATE, 10**-3.76) == [(10**-3.76, False)]
    assert at_best(RATE, 10**-3.74) == []
    assert at_best(RATE, 10**0.74) == []
    assert at_best(RATE, 10**0.76) == [(10**0.76, True)]
    assert at_best(DEPTH, 8.0) == [(8.0, True)]
    assert at_best(DEPTH, 7.0) == []


def test_the_best_on_the_border_of_a_grid():
    grid = make_choice_axis("optimizer.lr", ["0.1", "0.001", "0.01"])
    assert [at_best(grid, x) for x in (0.001, 0.01, 0.1)] == [[(0.001, False)], [], [(0.1, True)]]
    assert at_best(make_choice_axis("optimizer.lr", ["0.1", "0.001"]), 0.1) == []
    assert at_best(RULE, "adam") == []


def test_nothing_is_proposed_below_zero_nor_of_the_data():
    rate = make_choice_axis("dropout.rate", ["0", "0.1", "0.2"])
    assert (at_best(rate, 0.0), at_best(rate, 0.2)) == ([], [(0.2, True)])
    assert at_best(make_choice_axis("data.train_size", ["100", "200", "400"]), 400.0) == []


def test_without_a_best_there_is_no_border():
    assert find_borders(search([RATE], [({"optimizer.lr": 1e-4}, "failed")])) == []


def test_where_trials_diverge():
    """Both upper bins of the rate hold five of six diverged trials and one of eight others."""
    rates = [(1e-4, 8), (0.5, 1)]
    points = [({"optimizer.lr": x, "optimizer": "sgd"}, 1.0) for x, n in rates for _ in range(n - (x == 1e-4))]
    points += [({"optimizer.lr": x, "optimizer": "adam"}, "diverged") for x in (0.5, 0.5, 5.0, 5.0, 5.0, 1e-4)]
    found = find_divergence(search([RATE], points))
    assert (found.axis, found.first.low, found.last.high) == (RATE, pytest.approx(0.1), pytest.approx(10.0))
    assert (found.n_diverged, found.n_ended) == (5, 6)
    whole = find_divergence(search([RATE, RULE], points))
    assert (whole.axis, whole.first.name, whole.n_diverged, whole.n_ended) == (RULE, "adam", 6, 6)


def test_divergence_that_is_rare_or_everywhere_is_said_nowhere():
    both = [({"optimizer": o}, v) for o in ("sgd", "adam") for v in (1.0, "diverged", "diverged")]
    assert find_divergence(search([RULE], both)) is None
    assert find_divergence(search([RULE], both[:3])) is None
    assert find_divergence(search([RULE], [({"optimizer": "sgd"}, "diverged")] * 5)) is None


def test_how_many_are_as_good_as_the_best():
    trials = tuple(
        TrialRecord(i, None, (), {}, "done", v, sd) for i, (v, sd) in enumerate([(1.0, 0.5), (1.4, 9.0), (1.6, 9.0)])
    )
    assert importance.count_level_with_best(SearchRecord(None, (), "val/loss", False, trials)) == 2
    assert importance.count_level_with_best(search([], [({}, 1.0)])) == 0

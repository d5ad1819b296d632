"""Points are pure functions of the seed and the ordinal; TPE finds better ones than random search."""

import math
import statistics

import numpy as np
import optuna
import pytest
from scipy import stats
from studies import make_sampler, open_study, open_study_storage

from dlopt.sweep.axis import Choice, Interval
from dlopt.sweep.claims import Outcome
from dlopt.sweep.samplers import (
    count_repeated_points,
    describe_repeated_points,
    make_tpe_sampler,
    sample,
    sample_sobol,
    sample_uniform,
)
from dlopt.sweep.space import Condition, Space
from dlopt.sweep.study import Study

SPACE = Space(
    (
        Interval("lr", 1e-5, 1.0, log=True, step=None, whole=False),
        Interval("momentum", 0.0, 1.0, log=False, step=None, whole=False),
        Choice("rule", ("sgd", "adam", "muon")),
    ),
    (),
)


@pytest.mark.parametrize("shares", [sample_uniform, sample_sobol])
def test_a_point_depends_on_the_seed_and_the_ordinal_only(shares):
    order = [7, 0, 3, 3, 100, 1, 2, 99, 0, 63, 64, 7]
    expected = {ordinal: shares(3, 5, ordinal) for ordinal in sorted(set(order))}
    for ordinal in order:
        shares(3, 6, ordinal)  # another search in between
        assert shares(3, 5, ordinal) == expected[ordinal]
    assert all(0 <= x < 1 for point in expected.values() for x in point)
    assert len({tuple(shares(4, seed, ordinal)) for seed in range(20) for ordinal in range(20)}) == 400


@pytest.mark.parametrize(("dimensions", "seed"), [(1, 0), (2, 1), (20, 12345)])
def test_the_first_sobol_points_have_one_in_each_part_of_every_axis(dimensions, seed):
    """Of 2^k points, one in each of 2^k equal parts: scrambling keeps a net a net (Owen 1995)."""
    for k in range(8):
        points = np.array([sample_sobol(dimensions, seed, ordinal) for ordinal in range(2**k)])
        parts = np.sort(np.floor(points * 2**k), axis=0)
        assert (parts == np.arange(2**k)[:, None]).all()


@pytest.mark.parametrize("name", ["random", "qmc", "grid"])
def test_a_space_without_axes_has_one_point(name):
    assert sample(Space((), ()), make_sampler(name), 0) == ()


def test_uniform_numbers_are_uniform_over_ordinals_and_seeds():
    for numbers in (
        [x for ordinal in range(700) for x in sample_uniform(3, 1, ordinal)],
        [x for seed in range(700) for x in sample_uniform(3, seed, 1)],
    ):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3


FEW = Space((Choice("rule", ("sgd", "adam")), Interval("size", 1, 3, log=False, step=1, whole=True)), ())


@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "grid"])
def test_points_that_repeat_earlier_ones_are_counted(name):
    sampler = make_sampler(name)
    assert count_repeated_points(SPACE, sampler, 50) == 0
    if name != "grid":
        assert count_repeated_points(FEW, sampler, 200) == 194  # by then each of the six has come up
    if name in ("random", "qmc"):
        points = [sample(FEW, sampler, ordinal) for ordinal in range(5)]
        assert count_repeated_points(FEW, sampler, 5) == sum(p in points[:i] for i, p in enumerate(points))


def test_many_repeated_points_are_reported_with_their_number_and_the_remedy():
    random = make_sampler("random")
    choices = Space(FEW.axes[:1], ())
    for space, total, words in (
        (choices, 20, ["18 of the 20 points", "only 2 points; run each of them once with hydra/sweeper=grid"]),
        (FEW, 10**9, ["at least ", "only 6 points; name the values instead of intervals"]),
    ):
        text = describe_repeated_points(space, random, total)
        assert text.startswith("hydra.sweeper.n_trials: ")
        assert all(word in text for word in words)
    seeds = Space((Choice("seed", tuple(map(str, range(1000)))),), ())
    assert 0 < count_repeated_points(seeds, random, 100) < 10
    assert describe_repeated_points(seeds, random, 100) == ""


# ------------------------------------------------------------------------------------------------ TPE


def compute_loss(point):
    """Smooth, with its minimum 0 at lr = 0.01, momentum = 0.8 and the rule muon."""
    lr, momentum, rule = point
    return math.log10(lr / 1e-2) ** 2 + 4 * (momentum - 0.8) ** 2 + {"sgd": 1.0, "adam": 0.5, "muon": 0.0}[rule]


def search(space, sampler, trials, folder, loss):
    """Return the points of a search, each with its loss."""
    storage = open_study_storage(None, folder)
    points = []
    with Study(storage, open_study(storage), space, sampler, trials, folder) as study:
        while (trial := study.claim(lambda number: None)) is not None:
            points.append((trial.point, loss(trial.point)))
            study.tell(trial, Outcome("done", points[-1][1]))
    return points


def search_losses(name, seed, folder, trials=40):
    return [value for _, value in search(SPACE, make_sampler(name, seed), trials, folder, compute_loss)]


def test_tpe_finds_better_points_than_random_search_and_improves_on_its_own_first_ones(tmp_path):
    gains = []
    for seed in range(3):
        losses = search_losses("tpe", seed, tmp_path / f"tpe-{seed}", trials=30)
        assert statistics.median(losses[-10:]) < statistics.median(losses[:10])
        gains.append(min(search_losses("random", seed, tmp_path / f"random-{seed}", trials=30)) - min(losses))
    assert statistics.median(gains) > 0


@pytest.mark.long
def test_tpe_beats_random_search_over_many_seeds(tmp_path):
    gains = [
        min(search_losses("random", s, tmp_path / f"random-{s}")) - min(search_losses("tpe", s, tmp_path / f"tpe-{s}"))
        for s in range(24)
    ]
    assert statistics.median(gains) > 0
    assert stats.binomtest(sum(x > 0 for x in gains), len(gains), alternative="greater").pvalue < 0.01


def test_tpe_proposes_the_numbers_of_a_range_as_they_are_typed(tmp_path):
    axis = Interval("x", 0.1, 1.7, log=False, step=0.1, whole=False)
    points = search(Space((axis,), ()), make_sampler("tpe"), 15, tmp_path, lambda point: float(point[0]))
    assert {axis.to_override(point[0]) for point, _ in points} <= {f"x={k / 10}" for k in range(1, 18)}


def test_the_points_of_tpe_follow_from_the_seed_and_the_results(tmp_path):
    assert sample(SPACE, make_sampler("tpe"), 0) is None, "they are not known before the results"
    first, same, other = (
        search_losses("tpe", seed, tmp_path / name, 13) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == same != other


@pytest.mark.parametrize("multivariate", [False, True])
def test_tpe_searches_the_axes_that_apply(multivariate, tmp_path):
    """As Optuna does in conditional spaces: a trial has the parameters that were suggested, no others."""
    rule, momentum, lr = SPACE.axes[2], *SPACE.axes[1::-1]
    space = Space((momentum, rule, lr), (), (Condition("momentum", "rule", ("muon",)),))
    points = search(
        space, make_sampler("tpe", multivariate=multivariate), 40, tmp_path,
        lambda point: compute_loss((point[2], point[0] or 0.0, point[1])),
    )  # fmt: skip
    assert all((point[0] is None) == (point[1] != "muon") for point, _ in points)
    assert sum(point[0] is not None for point, _ in points[20:]) > 10, "muon is the best rule"
    assert statistics.median(value for _, value in points[-10:]) < statistics.median(value for _, value in points[:10])
    trials = open_study(open_study_storage(None, tmp_path)).trials
    assert [{*t.params} for t in trials] == [{"rule", "lr", *["momentum"] * (p[0] is not None)} for p, _ in points]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # as where a storage is opened
def test_axes_that_apply_to_the_same_points_have_a_density_of_their_own():
    """x and y are good on a diagonal, and only half of the trials have them: then y is proposed next to x."""
    unit = optuna.distributions.FloatDistribution(0.0, 1.0)

    def propose(ordinal, *, conditional):
        sampler = make_tpe_sampler(make_sampler("tpe", startup=4), ordinal, conditional=conditional)
        study = optuna.create_study(sampler=sampler)
        for k in range(120):
            x, y = sample_uniform(2, 0, k)
            params, value = ({"x": x, "y": y}, abs(x - y)) if k % 2 else ({}, 1.0)
            study.add_trial(optuna.create_trial(params=params, distributions=dict.fromkeys(params, unit), value=value))
        trial = study.ask()
        return abs(trial.suggest_float("x", 0.0, 1.0) - trial.suggest_float("y", 0.0, 1.0))

    together, apart = ([propose(i, conditional=c) for i in range(12)] for c in (True, False))
    assert statistics.median(together) < statistics.median(apart) / 2


def test_tpe_takes_the_running_points_of_others_into_account():
    """They count as bad ones: else several processes would try the same place at the same time."""
    distributions = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}

    def propose(running):
        study = optuna.create_study(sampler=make_tpe_sampler(make_sampler("tpe", startup=4), 9))
        for k in range(9):
            params, value = {"x": k / 8}, (k / 8 - 0.5) ** 2
            study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=value))
        state = optuna.trial.TrialState.RUNNING
        study.add_trial(optuna.create_trial(state=state, params={"x": running}, distributions=distributions))
        return study.ask(distributions).params["x"]

    assert len({propose(running) for running in (0.1, 0.3, 0.5, 0.7, 0.9)}) > 1

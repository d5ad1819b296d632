"""Points are pure functions of the seed and the ordinal; TPE finds better ones than chance does."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from dlopt.config.problems import Problems
from dlopt.sweep import storage
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.samplers import Sampler, make_tpe_sampler, sample, sample_sobol, sample_uniform
from dlopt.sweep.space import Choice, Interval, Space
from dlopt.sweep.study import Outcome, Study, load_or_create_study

SPACE = Space(
    (
        Interval("lr", 1e-5, 1.0, log=True, step=None, whole=False),
        Interval("momentum", 0.0, 1.0, log=False, step=None, whole=False),
        Choice("rule", ("sgd", "adam", "muon")),
    ),
    (),
)


def sampler(name: str, seed: int = 0) -> Sampler:
    return Sampler(name, seed, n_startup_trials=10, n_ei_candidates=24, multivariate=True)


@pytest.mark.parametrize("shares", [sample_uniform, sample_sobol])
def test_a_point_does_not_depend_on_the_others_that_were_asked_for(shares):
    order = [7, 0, 3, 3, 100, 1, 2, 99, 0, 63, 64, 7]
    wanted = {ordinal: shares(3, 5, ordinal) for ordinal in sorted(set(order))}
    for ordinal in order:
        shares(3, 6, ordinal)  # another search in between
        assert shares(3, 5, ordinal) == wanted[ordinal]
    assert len({tuple(point) for point in wanted.values()}) == len(wanted)
    assert all(0 <= x < 1 for point in wanted.values() for x in point)


@pytest.mark.parametrize("shares", [sample_uniform, sample_sobol])
def test_other_seeds_have_other_points(shares):
    found = {tuple(shares(4, seed, ordinal)) for seed in range(20) for ordinal in range(20)}
    assert len(found) == 400


@pytest.mark.parametrize("dimensions", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_sobols_first_points_have_one_in_each_part_of_every_axis(dimensions, seed):
    """Of 2^k points, one in each of 2^k equal parts: scrambling keeps a net a net (Owen 1995)."""
    for k in range(8):
        found = np.array([sample_sobol(dimensions, seed, ordinal) for ordinal in range(2**k)])
        parts = np.sort(np.floor(found * 2**k), axis=0)
        assert (parts == np.arange(2**k)[:, None]).all()


@pytest.mark.parametrize("name", ["random", "qmc", "grid"])
def test_a_space_without_axes_has_one_point(name):
    assert sample(Space((), ()), sampler(name), 0) == ()


def test_uniform_numbers_are_uniform_over_ordinals_and_seeds():
    for found in (
        [x for ordinal in range(700) for x in sample_uniform(3, 1, ordinal)],
        [x for seed in range(700) for x in sample_uniform(3, seed, 1)],
    ):
        assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_what_tpe_proposes_is_not_known_before():
    assert sample(SPACE, sampler("tpe"), 0) is None


# ------------------------------------------------------------------------------------------------ tuning


def loss(point: tuple[Any, ...]) -> float:
    """Smooth, with its least value 0 at lr = 0.01, momentum = 0.8 and the rule muon."""
    rate, momentum, rule = point
    return math.log10(rate / 1e-2) ** 2 + 4 * (momentum - 0.8) ** 2 + {"sgd": 1.0, "adam": 0.5, "muon": 0.0}[rule]


def searched(
    space: Space, by: Sampler, trials: int, folder: Path, loss: Callable[[tuple[Any, ...]], float]
) -> list[tuple[tuple[Any, ...], float]]:
    """The points of a search, each with its loss."""
    problems = Problems()
    opened = storage.open_storage(None, folder, problems)
    assert opened is not None
    study, _ = load_or_create_study(opened, "it", "minimize", Pruner("none", 0, 0, 1, 2).to_optuna(), space.to_dict())
    found = []
    with Study(opened, study, space, by, trials, folder) as mine:
        while (trial := mine.claim(lambda number: None)) is not None:
            found.append((trial.point, loss(trial.point)))
            mine.tell(trial, Outcome("done", found[-1][1]))
    return found


def losses(name: str, seed: int, folder: Path, trials: int = 40) -> list[float]:
    """The losses of so many points."""
    return [value for _, value in searched(SPACE, sampler(name, seed), trials, folder, loss)]


def differences(seeds: int, folder: Path) -> list[float]:
    return [
        min(losses("random", s, folder / f"random-{s}")) - min(losses("tpe", s, folder / f"tpe-{s}"))
        for s in range(seeds)
    ]


def test_tpe_beats_chance(tmp_path):
    assert statistics.median(differences(3, tmp_path)) > 0


def test_tpe_looks_where_results_were_good(tmp_path):
    """Its last points are better than its first ones, which are drawn at random, on every seed."""
    for seed in range(3):
        found = losses("tpe", seed, tmp_path / str(seed))
        assert statistics.median(found[-10:]) < statistics.median(found[:10])


def test_tpe_proposes_the_numbers_of_a_range_as_they_are_typed(tmp_path):
    axis = Interval("x", 0.1, 1.7, log=False, step=0.1, whole=False)
    found = searched(Space((axis,), ()), sampler("tpe"), 15, tmp_path, lambda point: float(point[0]))
    assert {axis.to_override(point[0]) for point, _ in found} <= {f"x={k / 10}" for k in range(1, 18)}


@pytest.mark.long
def test_tpe_beats_chance_over_many_seeds(tmp_path):
    found = differences(24, tmp_path)
    assert statistics.median(found) > 0
    assert stats.binomtest(sum(x > 0 for x in found), len(found), alternative="greater").pvalue < 0.01


def test_tpes_points_follow_from_the_seed_and_the_results(tmp_path):
    assert losses("tpe", 1, tmp_path / "a", 15) == losses("tpe", 1, tmp_path / "b", 15)
    assert losses("tpe", 1, tmp_path / "c", 15) != losses("tpe", 2, tmp_path / "d", 15)


def test_tpe_looks_at_the_points_that_others_are_at():
    """They count as bad ones: else several processes would look at the same place at the same time."""
    x = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}

    def proposed(running: float) -> float:
        study = optuna.create_study(
            sampler=make_tpe_sampler(Sampler("tpe", 0, n_startup_trials=4, n_ei_candidates=24, multivariate=True), 9)
        )
        for k in range(9):
            study.add_trial(optuna.trial.create_trial(params={"x": k / 8}, distributions=x, value=(k / 8 - 0.5) ** 2))
        state = optuna.trial.TrialState.RUNNING
        study.add_trial(optuna.trial.create_trial(state=state, params={"x": running}, distributions=x))
        return study.ask(x).params["x"]

    assert len({proposed(running) for running in (0.1, 0.3, 0.5, 0.7, 0.9)}) > 1

"""A few rehearsals predict the cost of every run of a search."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import compose_config
from omegaconf import OmegaConf

from dlopt.sweep.axis import Choice, Interval
from dlopt.sweep.cost_forecast import MAX_REHEARSALS, forecast_cost, is_heavy, select_informative
from dlopt.sweep.space import Space
from dlopt.training.cost import Cost, CostEstimate, CostModel

ARCH = Choice("arch", ("linear", "mlp", "cnn"))
OPTIMIZER = Choice("optimizer", ("sgd", "adam", "soap"))
BATCH = Choice("batch_size", ("10", "20", "40"))
LR = Choice("optimizer.lr", ("0.1", "0.01"))
FACTORS = {"linear": 1, "mlp": 3, "cnn": 20, "sgd": 1, "adam": 2, "soap": 9}


@pytest.fixture(scope="module")
def defaults():
    return OmegaConf.to_container(compose_config(), resolve=True)


def forecast(axes, defaults, runs=None, fails=(), clock=lambda: 0.0):
    """Forecast a grid in which a step takes the product of its values' factors; also return the rehearsed points."""
    points = list(itertools.product(*(axis.values for axis in axes)))
    rehearsed = []

    def make_job(point):
        values = {axis.key: value for axis, value in zip(axes, point, strict=True)}
        epochs, size = int(values.get("epochs", 10)), int(values.get("batch_size", 20))
        return SimpleNamespace(
            config=defaults | {"epochs": epochs, "batch_size": size}, title=" ".join(point), point=point
        )

    def rehearse(job, seconds):
        if seconds:
            rehearsed.append(job.point)
        if set(fails) & set(job.point):
            raise RuntimeError("no")
        nothing, step = Cost(0.0, 0.0), Cost(math.prod(float(FACTORS.get(value, 1)) for value in job.point), 0.0)
        return CostEstimate(CostModel(nothing, step, nothing, {}, nothing, 0.0), 200, False)

    return forecast_cost(Space(axes, ()), points, make_job, runs or len(points), rehearse, clock), rehearsed


def test_a_product_of_factors_is_predicted_exactly(defaults):
    """27 kinds of runs, of which eight are measured."""
    cost, rehearsed = forecast((ARCH, OPTIMIZER, BATCH, LR), defaults)
    assert cost.n_rehearsed == len(rehearsed) == len({point[:3] for point in rehearsed}) == MAX_REHEARSALS
    assert cost.n_kinds == 27
    assert {value for point in rehearsed for value in point} >= {*ARCH.values, *OPTIMIZER.values}
    points = itertools.product(ARCH.values, OPTIMIZER.values, BATCH.values, LR.values)
    seconds = [FACTORS[a] * FACTORS[o] * 10 * (200 / int(b)) for a, o, b, _ in points]
    assert cost.total.seconds == pytest.approx(sum(seconds))
    assert (cost.least.seconds, cost.most.seconds) == (pytest.approx(min(seconds)), pytest.approx(max(seconds)))


def test_runs_that_differ_in_hyperparameters_are_one_kind(defaults):
    cost, rehearsed = forecast((LR,), defaults)
    assert (cost.n_rehearsed, cost.n_kinds, len(rehearsed)) == (1, 1, 1)


def test_time_is_proportional_to_epochs_and_runs(defaults):
    cost, rehearsed = forecast((Choice("epochs", ("10", "30")),), defaults, runs=8)
    assert len(rehearsed) == 1
    assert (cost.least.seconds, cost.most.seconds, cost.total.seconds) == (100, 300, 8 * 200)


def test_failures_are_reported_and_left_out(defaults):
    for fails, failures in (("mlp",), ["mlp"]), (ARCH.values, ["linear", "mlp", "cnn"]):
        cost, _ = forecast((ARCH,), defaults, fails=fails)
        assert list(cost.failures) == failures
        assert cost.n_rehearsed == 3 - len(failures)


def test_no_rehearsal_begins_after_the_time_limit(defaults):
    seconds = itertools.count(step=6.0)
    cost, rehearsed = forecast((ARCH,), defaults, clock=lambda: next(seconds))
    assert len(rehearsed) == cost.n_rehearsed == 2


@pytest.mark.parametrize(
    ("axis", "heavy"),
    [
        (ARCH, True),
        (OPTIMIZER, True),
        (BATCH, True),
        (LR, False),
        (Choice("arch.widths", ("[8]", "[64,64]")), True),
        (Choice("data.train_size", ("100", "1000")), True),
        (Choice("epochs", ("1", "2")), False),
        (Choice("optimizer.nesterov", ("true", "false")), True),
        (Interval("optimizer.lr", 1e-4, 1.0, True, None, False), False),
        (Interval("batch_size", 10, 1000, False, 1, True), True),
    ],
    ids=lambda x: getattr(x, "key", str(x)),
)
def test_which_axes_change_the_time_of_a_step(axis, heavy):
    assert is_heavy(axis) is heavy


def test_the_first_rows_span_the_space_of_all():
    """Twelve rows in five dimensions, and one that is three times another."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5))
    rows[3] = 3 * rows[7]
    chosen = select_informative(rows, 5)
    assert np.linalg.matrix_rank(rows[chosen]) == 5
    assert not {3, 7} <= set(chosen)

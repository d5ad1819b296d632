"""A few rehearsals tell of every run of a search."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import compose_config
from omegaconf import OmegaConf

from dlopt.sweep.cost_forecast import MAX_REHEARSALS, forecast_cost, is_heavy, select_informative
from dlopt.sweep.space import Choice, Interval, Space
from dlopt.training.cost import Cost, CostEstimate, CostModel

ARCH = Choice("arch", ("linear", "mlp", "cnn"))
OPTIMIZER = Choice("optimizer", ("sgd", "adam", "soap"))
BATCH = Choice("batch_size", ("10", "20", "40"))
RATE = Choice("optimizer.lr", ("0.1", "0.01"))
FACTOR = {"linear": 1, "mlp": 3, "cnn": 20, "sgd": 1, "adam": 2, "soap": 9}


@pytest.fixture(scope="module")
def plain():
    return OmegaConf.to_container(compose_config(), resolve=True)


def searched(space, points, plain, runs=None, step=None, fails=(), clock=lambda: 0.0):
    """The forecast, and the points that were rehearsed, where a step takes the product of its values' factors."""
    seen = []

    def job(point):
        own = {axis.key: value for axis, value in zip(space.axes, point, strict=True)}
        epochs, size = int(own.get("epochs", 10)), int(own.get("batch_size", 20))
        return SimpleNamespace(config=plain | {"epochs": epochs, "batch_size": size}, title=" ".join(point), own=own)

    def rehearse(job, seconds):
        if seconds:
            seen.append(tuple(job.own.values()))
        if set(fails) & set(job.own.values()):
            raise RuntimeError("no")
        return CostEstimate(figures(seconds_of(job.own)), 200, False)

    def seconds_of(own):
        return math.prod(float(FACTOR.get(value, 1)) for value in own.values())

    found = forecast_cost(space, points, job, runs or len(points), rehearse, clock)
    return found, seen


def figures(seconds):
    nothing = Cost(0.0, 0.0)
    return CostModel(nothing, Cost(seconds, 0.0), nothing, {}, nothing, 0.0)


def test_a_product_is_told_from_a_few(plain):
    """27 kinds of runs, of which eight or fewer are measured: the total is exact."""
    space = Space((ARCH, OPTIMIZER, BATCH, RATE), ())
    points = list(itertools.product(*(axis.values for axis in space.axes)))
    found, seen = searched(space, points, plain)
    assert found.n_rehearsed == len(seen) == MAX_REHEARSALS
    assert found.n_kinds == 27
    each = [FACTOR[a] * FACTOR[o] * 10 * (200 / int(b)) for a, o, b, _ in points]
    assert found.total.seconds == pytest.approx(sum(each))
    assert (found.least.seconds, found.most.seconds) == (pytest.approx(min(each)), pytest.approx(max(each)))


def test_every_value_that_matters_is_rehearsed(plain):
    space = Space((ARCH, OPTIMIZER, RATE), ())
    points = list(itertools.product(*(axis.values for axis in space.axes)))
    _, seen = searched(space, points, plain)
    assert {value for point in seen for value in point} >= {*ARCH.values, *OPTIMIZER.values}
    assert len({point[:2] for point in seen}) == len(seen) == MAX_REHEARSALS  # none twice


def test_runs_that_differ_in_numbers_of_the_rule_are_one_kind(plain):
    found, seen = searched(Space((RATE,), ()), [("0.1",), ("0.01",)], plain)
    assert (found.n_rehearsed, found.n_kinds, len(seen)) == (1, 1, 1)


def test_time_follows_the_epochs_and_the_number_of_runs(plain):
    epochs = Choice("epochs", ("10", "30"))
    found, seen = searched(Space((epochs,), ()), [("10",), ("30",)], plain, runs=8)
    assert len(seen) == 1
    assert (found.least.seconds, found.most.seconds) == (100, 300)
    assert found.total.seconds == 8 * 200


def test_what_fails_is_said_and_left_out(plain):
    points = [("linear",), ("mlp",), ("cnn",)]
    found, _ = searched(Space((ARCH,), ()), points, plain, fails=["mlp"])
    assert list(found.failures) == ["mlp"]
    assert found.n_rehearsed == 2
    found, _ = searched(Space((ARCH,), ()), points, plain, fails=ARCH.values)
    assert found.n_rehearsed == 0
    assert list(found.failures) == ["linear", "mlp", "cnn"]


def test_no_rehearsal_begins_after_its_time(plain):
    seconds = itertools.count(step=6.0)
    found, seen = searched(Space((ARCH,), ()), [(v,) for v in ARCH.values], plain, clock=lambda: next(seconds))
    assert len(seen) == found.n_rehearsed == 2


@pytest.mark.parametrize(
    ("axis", "heavy"),
    [
        (ARCH, True),
        (OPTIMIZER, True),
        (BATCH, True),
        (RATE, False),
        (Choice("regularization", ("[l2,dropout]", "none")), True),
        (Choice("arch.widths", ("[8]", "[64,64]")), True),
        (Choice("data.train_size", ("100", "1000")), True),
        (Choice("seed", ("0", "1")), False),
        (Choice("epochs", ("1", "2")), False),
        (Choice("optimizer.nesterov", ("true", "false")), True),
        (Interval("optimizer.lr", 1e-4, 1.0, True, None, False), False),
        (Interval("batch_size", 10, 1000, False, 1, True), True),
    ],
    ids=lambda x: getattr(x, "key", str(x)),
)
def test_what_matters(axis, heavy):
    assert is_heavy(axis) is heavy


def test_the_first_rows_span_what_all_do():
    """Twelve rows in a space of five dimensions, and one that is three times another."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5))
    rows[3] = 3 * rows[7]
    chosen = select_informative(rows, 5)
    assert np.linalg.matrix_rank(rows[chosen]) == 5
    assert not {3, 7} <= set(chosen)

"""Schedules: what every option must give, and the formula of each."""

import math

import pytest
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dlopt.config import paths
from dlopt.schedule.constant import Constant
from dlopt.schedule.cosine import Cosine

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure
SCHEDULES = {
    name: instantiate(OmegaConf.load(paths.CONF / "schedule" / f"{name}.yaml"))
    for name in paths.options("schedule")
    if name != "custom"
}
schedules = pytest.mark.parametrize("name", SCHEDULES)
times = st.integers(1, 10**6).flatmap(lambda steps: st.tuples(st.integers(0, steps - 1), st.just(steps)))
finals = st.floats(0, 1)


@schedules
@relaxed
@given(time=times)
def test_the_factor_is_finite_and_not_negative(name, time):
    factor = SCHEDULES[name](*time)
    assert math.isfinite(factor)
    assert factor >= 0


@schedules
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_a_run_of_any_length_has_a_first_step_that_moves(name, steps):
    assert 0 < SCHEDULES[name](0, steps) < math.inf


@relaxed
@given(time=times)
def test_the_constant_schedule_is_one(time):
    assert Constant()(*time) == 1.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_goes_from_one_through_the_middle_to_its_end(final):
    f = Cosine(final)
    assert f(0, 100) == 1.0
    assert f(50, 100) == pytest.approx((1 + final) / 2)
    assert f(100, 100) == pytest.approx(final)
    last = final + (1 - final) * math.sin(math.pi / 200) ** 2  # (1 + cos(pi - x)) / 2 = sin(x / 2)^2
    assert f(99, 100) == pytest.approx(last, abs=1e-12)


@relaxed
@given(time=times, final=finals)
def test_cosine_lies_between_its_ends_and_never_rises(time, final):
    step, steps = time
    f = Cosine(final)
    assert final - 1e-12 <= f(step, steps) <= 1 + 1e-12
    if step + 1 < steps:
        assert f(step + 1, steps) <= f(step, steps)


@relaxed
@given(time=times, final=finals)
def test_cosine_is_antisymmetric_about_its_middle(time, final):
    step, steps = time
    assert Cosine(final)(step, steps) + Cosine(final)(steps - step, steps) == pytest.approx(1 + final)


@relaxed
@given(time=times, final=finals, longer=st.integers(1, 100))
def test_cosine_depends_on_the_share_of_the_run_alone(time, final, longer):
    step, steps = time
    assert Cosine(final)(longer * step, longer * steps) == pytest.approx(Cosine(final)(step, steps), abs=1e-12)

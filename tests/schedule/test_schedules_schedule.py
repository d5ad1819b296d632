"""Schedules: what every option must give, the formula of each, and the trajectories of torch's."""

import itertools
import math
from pathlib import Path

import mine
import pytest
import torch
from helpers import BLOBS, build_blobs, compose_config, interrupt_run, load_weights, read_rows, resume_run, train_runs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dlopt.cli import main
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError
from dlopt.config.schema.targets import instantiate
from dlopt.parts import TrainingTime
from dlopt.schedule.constant import ConstantSchedule
from dlopt.schedule.cosine import Cosine
from dlopt.schedule.exponential import Exponential
from dlopt.schedule.harmonic import Harmonic
from dlopt.schedule.inverse_sqrt import InverseSqrt
from dlopt.schedule.inverse_time import InverseTime
from dlopt.schedule.linear import LinearDecay
from dlopt.schedule.one_cycle import OneCycle
from dlopt.schedule.plateau import Plateau
from dlopt.schedule.polynomial import Polynomial
from dlopt.schedule.ramp import Ramp
from dlopt.schedule.step import StepDecay
from dlopt.schedule.warm_restarts import WarmRestarts
from dlopt.schedule.warmup import Warmup

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure
NAMES = [name for name in groups.list_option_names("schedule") if name != "custom"]
SCHEDULES = {name: instantiate(compose_config(f"schedule={name}").schedule) for name in NAMES}
schedules = pytest.mark.parametrize("name", SCHEDULES)
units = st.sampled_from(["steps", "epochs"])
finals = st.floats(0, 1)
rates = st.floats(0, 10)
lengths = st.integers(1, 10**6)
offsets = st.floats(0.01, 1000)
taus = st.none() | st.floats(0.1, 10**4)


@st.composite
def times(draw, steps=lengths):
    length = draw(steps)
    return TrainingTime(draw(st.integers(0, length - 1)), length, draw(st.integers(1, 1000)))


def course(schedule, steps, per_epoch=1):
    """The factors of a whole run."""
    return [schedule(TrainingTime(step, steps, per_epoch)) for step in range(steps)]


def later(time, by=1):
    return time._replace(step=time.step + by)


decays = st.one_of(
    st.builds(ConstantSchedule),
    st.builds(Cosine, finals),
    st.builds(Exponential, rates, units),
    st.builds(InverseTime, rates, units),
    st.builds(StepDecay, st.floats(0, 1, exclude_min=True), st.integers(1, 100), units),
    st.builds(InverseSqrt, offsets, units),
    st.builds(Harmonic, offsets, units),
    st.builds(LinearDecay, finals, taus, units),
    st.builds(Polynomial, st.floats(0.1, 5), finals, taus, units),
    st.builds(Ramp, st.just(1.0), st.floats(0.01, 1), st.sampled_from(["linear", "geometric"]), taus, units),
)
"""Everything that begins at one and never rises."""


# ------------------------------------------------------------------------------------------- every option


@schedules
@relaxed
@given(time=times(st.integers(10**4, 10**6)))
def test_the_factor_is_finite_and_not_negative(name, time):
    factor = SCHEDULES[name](time)
    assert math.isfinite(factor)
    assert factor >= 0


@schedules
@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_a_run_of_any_length_has_a_first_step_that_moves(name, steps):
    if name == "warmup" and steps < 5:
        pytest.skip("a run shorter than its warm-up is refused")
    assert 0 < SCHEDULES[name](TrainingTime(0, steps, 1)) < math.inf


@relaxed
@given(schedule=decays, time=times())
def test_a_decay_begins_at_one_and_never_rises(schedule, time):
    assert schedule(time._replace(step=0)) == 1.0
    assert 0 <= schedule(time) <= 1
    assert schedule(later(time)) <= schedule(time) + 1e-15  # the sum of two terms is rounded


@relaxed
@given(time=times())
def test_time_in_epochs_is_whole_where_an_epoch_begins(time):
    assert time.t("steps") == time.step
    assert time.t("epochs") == pytest.approx(time.step / time.per_epoch)
    assert (time.t("epochs") == round(time.t("epochs"))) == (time.step % time.per_epoch == 0)


@relaxed
@given(time=times(), k=rates, gamma=st.floats(0.01, 1), every=st.integers(1, 50))
def test_epochs_of_one_step_are_steps(time, k, gamma, every):
    time = time._replace(per_epoch=1)
    for one, other in (
        (Exponential(k, "steps"), Exponential(k, "epochs")),
        (InverseTime(k, "steps"), InverseTime(k, "epochs")),
        (StepDecay(gamma, every, "steps"), StepDecay(gamma, every, "epochs")),
        (InverseSqrt(every, "steps"), InverseSqrt(every, "epochs")),
        (Harmonic(every, "steps"), Harmonic(every, "epochs")),
        (LinearDecay(gamma, every, "steps"), LinearDecay(gamma, every, "epochs")),
        (Polynomial(k + 0.1, gamma, every, "steps"), Polynomial(k + 0.1, gamma, every, "epochs")),
        (WarmRestarts(every, 2, gamma, "steps"), WarmRestarts(every, 2, gamma, "epochs")),
        (Ramp(gamma, k, "linear", every, "steps"), Ramp(gamma, k, "linear", every, "epochs")),
    ):
        assert one(time) == other(time)


# ------------------------------------------------------------------------------------------- formulas


@relaxed
@given(time=times())
def test_the_constant_schedule_is_one(time):
    assert ConstantSchedule()(time) == 1.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_goes_from_one_through_the_middle_to_its_end(final):
    f = [Cosine(final)(TrainingTime(step, 100, 7)) for step in range(101)]
    assert f[0] == 1.0
    assert f[50] == pytest.approx((1 + final) / 2)
    assert f[100] == pytest.approx(final)
    last = final + (1 - final) * math.sin(math.pi / 200) ** 2  # (1 + cos(pi - x)) / 2 = sin(x / 2)^2
    assert f[99] == pytest.approx(last, abs=1e-12)


@relaxed
@given(time=times(), final=finals)
def test_cosine_lies_between_its_ends(time, final):
    assert final - 1e-12 <= Cosine(final)(time) <= 1 + 1e-12


@relaxed
@given(time=times(), final=finals)
def test_cosine_is_antisymmetric_about_its_middle(time, final):
    mirrored = time._replace(step=time.steps - time.step)
    assert Cosine(final)(time) + Cosine(final)(mirrored) == pytest.approx(1 + final)


@relaxed
@given(time=times(), final=finals, longer=st.integers(1, 100))
def test_cosine_depends_on_the_share_of_the_run_alone(time, final, longer):
    stretched = TrainingTime(longer * time.step, longer * time.steps, time.per_epoch)
    assert Cosine(final)(stretched) == pytest.approx(Cosine(final)(time), abs=1e-12)


@relaxed
@given(time=times(), k=st.floats(1e-6, 0.1))
def test_exponential_decay_loses_the_same_share_in_every_unit_of_time(time, k):
    """The solution of f' = -k f with f(0) = 1; halved every ln 2 / k."""
    for unit, whole in (("steps", 1), ("epochs", time.per_epoch)):
        f = Exponential(k, unit)
        assume(f(time) > 1e-200)
        assert f(later(time, whole)) / f(time) == pytest.approx(math.exp(-k))
    assert Exponential(math.log(2) / 8, "epochs")(TrainingTime(24 * 13, 10**6, 13)) == pytest.approx(1 / 8)


@relaxed
@given(time=times(), k=st.floats(1e-3, 10))
def test_the_inverse_of_the_inverse_time_decay_is_a_straight_line(time, k):
    for unit, whole in (("steps", 1), ("epochs", time.per_epoch)):
        f = InverseTime(k, unit)
        assert 1 / f(later(time, whole)) - 1 / f(time) == pytest.approx(k, rel=1e-6)
    assert InverseTime(0.25, "epochs")(TrainingTime(4 * 7, 10**6, 7)) == 0.5


@relaxed
@given(time=times(), gamma=st.floats(0.01, 1), every=st.integers(1, 50), unit=units)
def test_step_decay_counts_its_falls(time, gamma, every, unit):
    """In epochs the falls are counted in whole ones, and come where an epoch begins."""
    f = StepDecay(gamma, every, unit)
    done = time.step if unit == "steps" else time.step // time.per_epoch
    assert f(time) == pytest.approx(gamma ** (done // every), abs=1e-300)
    if f(time) != f(later(time)):
        assert time.step + 1 == (done // every + 1) * every * (time.per_epoch if unit == "epochs" else 1)


@relaxed
@given(time=times(), k=st.floats(0, 1))
def test_the_staircase_of_exponential_decay_is_step_decay(time, k):
    whole = time._replace(step=time.step // time.per_epoch * time.per_epoch)
    stairs = StepDecay(math.exp(-k), 1, "epochs")(time)
    assert stairs == pytest.approx(Exponential(k, "epochs")(whole), rel=1e-9, abs=1e-300)


@relaxed
@given(time=times(), offset=offsets)
def test_decay_by_the_root_of_time_and_by_time_itself(time, offset):
    """1 / f^2 and 1 / f are straight lines, from 1, and at k = 4 offset the rates are a half and a quarter."""
    for unit in ("steps", "epochs"):
        slow, fast = InverseSqrt(offset, unit), Harmonic(offset, unit)
        assert 1 / slow(time) ** 2 == pytest.approx(1 + time.t(unit) / offset)
        assert 1 / fast(time) == pytest.approx(1 + time.t(unit) / offset)
        assert fast(time) == pytest.approx(InverseTime(1 / offset, unit)(time))
    assert course(InverseSqrt(1, "steps"), 4) == pytest.approx([1, 1 / math.sqrt(2), 1 / math.sqrt(3), 1 / 2])
    assert course(Harmonic(1, "steps"), 4) == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert Harmonic(5, "epochs")(TrainingTime(15 * 7, 1000, 7)) == 1 / 4


@pytest.mark.parametrize("unit", ["steps", "epochs"])
@pytest.mark.parametrize("steps", [60, 30, 200])
def test_a_line_reaches_its_end_after_its_length_and_stays(unit, steps):
    """Goodfellow et al., equation 8.14, at the first, a middle and the last step of the line, and behind it."""
    tau = 40 if unit == "steps" else 8
    f = LinearDecay(0.01, tau, unit)
    at = {t: f(TrainingTime(t, steps, 5)) for t in (0, 10, 39, 40, 41, steps)}
    assert at[0] == 1.0
    assert at[10] == pytest.approx(0.75 + 0.25 * 0.01)
    assert at[39] == pytest.approx(1 / 40 + 39 / 40 * 0.01)
    assert at[40] == at[41] == f(TrainingTime(10**6, 10**7, 5)) == 0.01
    assert f.span(TrainingTime(0, steps, 5)) == 40


@relaxed
@given(time=times(), final=finals, tau=taus, unit=units)
def test_a_polynomial_of_power_one_is_a_line_and_so_is_a_ramp(time, final, tau, unit):
    line = LinearDecay(final, tau, unit)
    assert Polynomial(1.0, final, tau, unit)(time) == pytest.approx(line(time), abs=1e-12)
    assert Ramp(1.0, final, "linear", tau, unit)(time) == pytest.approx(line(time), abs=1e-12)


def test_a_polynomial_at_its_ends_and_halfway():
    for length, steps in ((None, 100), (100, 400)):
        f = Polynomial(2.0, 0.2, length, "steps")
        assert f(TrainingTime(0, steps, 7)) == 1.0
        assert f(TrainingTime(50, steps, 7)) == pytest.approx(0.2 + 0.8 * 0.25)
        assert f(TrainingTime(99, steps, 7)) == pytest.approx(0.2 + 0.8 * 1e-4)
        assert f(TrainingTime(100, steps, 7)) == 0.2
    assert f(TrainingTime(399, 400, 7)) == 0.2


@relaxed
@given(time=times(), start=st.floats(0.01, 100), end=st.floats(0.01, 100), length=taus, unit=units)
def test_a_ramp_goes_by_equal_steps_or_by_equal_shares(time, start, end, length, unit):
    n = time.in_steps(length, unit)
    assume(time.step + 1 < n)
    linear, geometric = (Ramp(start, end, shape, length, unit) for shape in ("linear", "geometric"))
    assert linear(later(time)) - linear(time) == pytest.approx((end - start) / n, abs=1e-9)
    assert math.log(geometric(later(time)) / geometric(time)) == pytest.approx(math.log(end / start) / n, abs=1e-9)
    for ramp in (linear, geometric):
        assert ramp(time._replace(step=0)) == pytest.approx(start)
        assert ramp(time._replace(step=math.ceil(n))) == end


def test_a_geometric_ramp_has_no_end_at_zero():
    for key in ("start", "end"):
        with pytest.raises(ConfigError, match="must be > 0 where the shape is geometric") as found:
            build_blobs("schedule=ramp", "schedule.shape=geometric", f"schedule.{key}=0")
        assert [k for k, _ in found.value.problems] == [f"schedule.{key}"]
    assert Ramp(0.0, 1.0, "linear", 4, "steps")(TrainingTime(1, 9, 1)) == 0.25


@relaxed
@given(first=st.integers(1, 20), multiplier=st.integers(1, 3), final=finals, per_epoch=st.integers(1, 9))
def test_every_period_between_restarts_is_a_cosine_of_its_own(first, multiplier, final, per_epoch):
    lengths = [first * per_epoch * multiplier**i for i in range(4)]
    f = WarmRestarts(first, multiplier, final, "epochs")
    found = course(f, sum(lengths), per_epoch)
    for n in lengths:
        period, found = found[:n], found[n:]
        assert period == pytest.approx(course(Cosine(final), n))
        assert period[0] == 1.0


def test_a_first_period_that_is_not_whole_is_rounded_so_that_restarts_are():
    for multiplier in (1, 2):
        found = course(WarmRestarts(1.1, multiplier, 0.0, "epochs"), 40, per_epoch=10)
        assert [t for t, factor in enumerate(found) if factor == 1.0] == (
            [0, 11, 22, 33] if multiplier == 1 else [0, 11, 33]
        )


def test_the_end_of_warm_restarts_is_that_of_the_period_under_way():
    f = WarmRestarts(10, 2, 0.0, "epochs")
    for epochs, span in ((1, 10), (10, 10), (11, 30), (30, 30), (69, 70), (71, 150)):
        assert f.span(TrainingTime(0, epochs * 7, 7)) == span * 7


@relaxed
@given(time=times(st.integers(2, 10**5)), start=st.floats(0.01, 1), peak=st.floats(0, 0.9), final=finals)
def test_one_cycle_lies_between_its_ends_and_joins_at_its_peak(time, start, peak, final):
    f = OneCycle(start, peak, final)
    top = peak * time.steps - 1
    low = min(start, final) if top > 0 else final
    assert low - 1e-12 <= f(time) <= 1
    assert f(time._replace(step=0)) == pytest.approx(start if top > 0 else 1.0)
    assert f(time._replace(step=time.steps - 1)) == pytest.approx(final, abs=1e-12)
    width = min(top, time.steps - 1 - max(top, 0)) if top > 0 else time.steps - 1
    assert abs(f(later(time)) - f(time)) <= math.pi / 2 / max(width, 1) + 1e-9 or time.step + 1 == time.steps


def test_one_cycle_at_its_first_step_its_peak_and_its_last():
    f = course(OneCycle(0.04, 0.3, 0.001), 100)
    assert (f[0], f[29], f[99]) == pytest.approx((0.04, 1.0, 0.001))
    assert f[64] == pytest.approx((1 + 0.001) / 2, abs=1e-9)
    assert course(OneCycle(0.04, 0.3, 0.001), 1) == [1.0]
    assert course(OneCycle(0.04, 0.0, 0.001), 3) == pytest.approx([1.0, (1 + 0.001) / 2, 0.001])


# ------------------------------------------------------------------------------------------- warm-up


starts = st.floats(0, 1)


@relaxed
@given(n=st.integers(1, 300), rest=st.integers(0, 100), start=starts, then=decays)
def test_warmup_climbs_in_equal_steps_to_one_and_hands_over_there(n, rest, start, then):
    f = course(Warmup(n, "steps", start, then), n + rest, per_epoch=7)
    assert f[n - 1] == 1.0
    rises = [b - a for a, b in itertools.pairwise([start, *f[:n]])]
    assert rises == pytest.approx([(1 - start) / n] * n, abs=1e-12)
    assert f[0] > 0
    assert f[n:] == course(then, rest, per_epoch=7), "what follows has the rest of the run to itself"
    assert rest == 0 or f[n] == f[n - 1], "no jump where one ends and the other begins"


@relaxed
@given(time=times(), start=starts, then=decays, unit=units)
def test_warmup_of_no_length_is_what_follows(time, start, then, unit):
    assert Warmup(0, unit, start, then)(time) == then(time)


@relaxed
@given(time=times(), n=st.integers(1, 100), then=decays)
def test_warmup_from_one_onto_a_constant_is_constant(time, n, then):
    assume(n <= time.steps)
    assert Warmup(n, "steps", 1.0, ConstantSchedule())(time) == 1.0


@relaxed
@given(per_epoch=st.integers(1, 50), length=st.integers(0, 4), then=decays)
def test_warmup_in_epochs_is_warmup_in_as_many_steps(per_epoch, length, then):
    steps = 5 * per_epoch
    in_epochs = Warmup(length, "epochs", 0.1, then)
    assert course(in_epochs, steps, per_epoch) == course(
        Warmup(length * per_epoch, "steps", 0.1, then), steps, per_epoch
    )


def test_a_part_of_an_epoch_is_rounded_to_whole_steps():
    assert course(Warmup(0.5, "epochs", 0.0, ConstantSchedule()), 8, per_epoch=8) == [
        0.25,
        0.5,
        0.75,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
    ]
    assert course(Warmup(0.1, "epochs", 0.0, ConstantSchedule()), 30, per_epoch=30)[:3] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )


def test_a_run_may_be_all_warmup_but_not_shorter():
    assert course(Warmup(4, "steps", 0.0, ConstantSchedule()), 4) == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="a warm-up of 10 steps is longer than the run, 9"):
        Warmup(2, "epochs", 0.0, ConstantSchedule())(TrainingTime(0, 9, 5))
    for length in (1e300, 1e308):
        with pytest.raises(ValueError, match=r"a warm-up of (5e\+300|inf) steps is longer than the run, 9; make"):
            Warmup(length, "epochs", 0.0, ConstantSchedule())(TrainingTime(0, 9, 5))


def test_warmups_follow_one_another():
    twice = Warmup(2, "steps", 0.0, Warmup(2, "steps", 0.5, Cosine(0.0)))
    assert course(twice, 8)[:4] == [0.5, 1.0, 0.75, 1.0]
    assert course(twice, 8)[4:] == course(Cosine(0.0), 4)


# ------------------------------------------------------------------------------------------- what it is shown


FOLLOW = ("schedule=custom", "schedule._target_=mine.FollowMetric", "log_every=1", "precision=float64")


def test_a_schedule_is_shown_every_evaluation_so_far(tmp_path):
    """After each of three epochs of three steps; rows between are none."""
    _, (run,) = train_runs(tmp_path, build_blobs(*FOLLOW, "+schedule.monitor=val/accuracy", "optimizer.lr=1.0"))
    rows = run.rows()
    found = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
    assert len(found) == 3
    wanted = [1 / 2] * 3 + [1 / (3 + found[0])] * 3 + [1 / (4 + found[1])] * 3
    assert [row["lr"] for row in rows] == wanted


def test_time_after_some_steps_has_the_same_history():
    history = ({"step": 3, "val/loss": 1.0},)
    assert TrainingTime(5, 9, 3, history).after(2) == TrainingTime(3, 7, 3, history)
    assert TrainingTime(5, 9, 3, history).after(2).history is history


@pytest.mark.parametrize("stop", [2, 3, 4, 7])
def test_a_run_that_goes_on_is_shown_the_same(stop, tmp_path):
    overrides = (*FOLLOW, "+schedule.monitor=val/loss")
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*overrides))
    _, run = resume_run(run.path, build_blobs(*overrides))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


def test_each_lane_is_shown_its_own_when_others_have_left_too(tmp_path):
    """The first diverges at its first row."""
    variants = ("optimizer.lr=1e300", "seed=1", "seed=2")
    overrides = (*FOLLOW, "+schedule.monitor=val/loss", "optimizer=sgd")
    summaries, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*overrides, v) for v in variants))
    assert [s["status"] for s in summaries] == ["diverged", "done", "done"]
    for run, v in zip(lanes[1:], variants[1:], strict=True):
        _, (alone,) = train_runs(tmp_path / v, build_blobs(*overrides, v))
        assert [r["lr"] for r in run.rows()] == pytest.approx([r["lr"] for r in alone.rows()], rel=1e-9)


def test_the_metric_that_a_schedule_follows_is_checked_inside_another_too():
    inside = ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=custom")
    for at, overrides in {
        "schedule": ("schedule=custom", "schedule._target_=mine.FollowMetric"),
        "schedule.then": (*inside, "schedule.then._target_=mine.FollowMetric"),
    }.items():
        for metric, said in (
            ("val/acuracy", "did you mean val/accuracy"), ("val/loss", "needs a validation split"),
        ):  # fmt: skip
            fraction = "validation.fraction=0" if metric == "val/loss" else "validation.fraction=0.2"
            with pytest.raises(ConfigError, match=said) as found:
                build_blobs(*overrides, f"+{at}.monitor={metric}", fraction)
            assert [key for key, _ in found.value.problems] == [f"{at}.monitor"]


def test_a_rule_without_a_rate_cannot_follow_a_metric():
    with pytest.raises(ConfigError, match="NormalizedDescent has no rate lr to change"):
        build_blobs("optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "schedule=custom",
              "schedule._target_=mine.FollowMetric", "+schedule.monitor=val/loss")  # fmt: skip


# ------------------------------------------------------------------------------------------- another length


def told(*overrides):
    """What is said of a schedule's length before a run of nine steps, three an epoch, begins."""
    given = (*BLOBS, *overrides)
    return [notice for notice in build(compose_config(*given), given)[1] if notice.startswith("schedule: ")]


@schedules
def test_nothing_is_said_of_a_schedule_that_follows_the_run_or_has_no_end(name):
    assert told(f"schedule={name}", *FITTING.get(name, ())) == []


FITTING = {"step": ("schedule.every=2",), "warmup": ("schedule.length=1",), "warm_restarts": ("schedule.first=1",)}
"""Keys that suit a run of nine steps."""


def test_a_staircase_whose_first_fall_lies_behind_the_end_is_told():
    assert told("schedule=step", "schedule.every=30") == [
        "schedule: the run makes 9 of the 91 steps of step, where it is still 1"
    ]
    assert told("schedule=step", "schedule.every=9", "schedule.unit=steps") != []
    assert told("schedule=step", "schedule.every=8", "schedule.unit=steps") == []


ENDS = {
    ("schedule=linear", "schedule.tau=2"): "linear ends after 6 of the run's 9 steps and stays at 0.01",
    ("schedule=linear", "schedule.tau=18", "schedule.unit=steps"):
        "the run makes 9 of the 18 steps of linear, down to the factor 0.56",
    ("schedule=polynomial", "schedule.length=1"): "polynomial ends after 3 of the run's 9 steps and stays at 0",
    ("schedule=polynomial", "schedule.length=10"): "the run makes 9 of the 30 steps of polynomial, down to the factor 0.7564",
    ("schedule=ramp", "schedule.length=10.5", "schedule.unit=steps"):
        "the run makes 9 of the 10.5 steps of ramp, up to the factor 0.881",
    ("schedule=warm_restarts", "schedule.first=2"): "the run makes 9 of the 18 steps of warm_restarts, down to the factor 0.933",
    ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=linear", "schedule.then.tau=1"):
        "warmup ends after 6 of the run's 9 steps and stays at 0.01",
}  # fmt: skip


@pytest.mark.parametrize("overrides", ENDS)
def test_a_run_that_is_longer_or_shorter_than_its_schedule_is_told(overrides):
    assert told(*overrides) == [f"schedule: {ENDS[overrides]}"]


def test_a_warmup_adds_its_length_to_what_follows():
    assert Warmup(2, "epochs", 0.0, Cosine(0.1)).span(TrainingTime(0, 9, 3)) == 9
    assert Warmup(2, "epochs", 0.0, Exponential(0.1, "steps")).span(TrainingTime(0, 9, 3)) is None
    assert Warmup(3, "epochs", 0.0, StepDecay(0.1, 1, "steps")).span(TrainingTime(0, 9, 3)) is None, "nothing follows"
    assert Warmup(2, "epochs", 0.0, StepDecay(0.1, 5, "epochs")).span(TrainingTime(0, 9, 3)) == 6 + 16
    assert Warmup(2, "epochs", 0.0, mine.Sawtooth()).span(TrainingTime(0, 9, 3)) is None, "one's own need not say"


def test_a_schedule_of_ones_own_may_say_how_long_it_is():
    own = ("schedule=custom", "schedule._target_=mine.FourSteps")
    assert told(*own) == ["schedule: mine ends after 4 of the run's 9 steps and stays at 0.5"]
    assert told(*own, "steps=4") == []
    assert told(*own, "steps=2") == ["schedule: the run makes 2 of the 4 steps of mine, where it is still 1"]
    assert told("schedule=custom", "schedule._target_=mine.Sawtooth") == []


def test_a_run_that_goes_on_for_longer_than_its_schedule_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(mine.__file__).parent))
    own = ("schedule=custom", "schedule._target_=mine.FourSteps", "device=cpu", "hydra.run.dir=run")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *BLOBS, *own, "steps=4"]) == 0
    assert "note: schedule" not in capsys.readouterr().err
    assert main(["train", "--trust", "resume=run", "steps=6"]) == 0
    assert "note: schedule: mine ends after 4 of the run's 6 steps and stays at 0.5" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- against torch


def theirs(make, steps):
    """The rates that a scheduler of torch gives, one step after another, from a rate of one."""
    w = torch.nn.Parameter(torch.zeros(()))
    rule = torch.optim.SGD([w], lr=1.0)
    scheduler, found = make(rule, torch.optim.lr_scheduler), []
    for _ in range(steps):
        found.append(rule.param_groups[0]["lr"])
        rule.step()
        scheduler.step()
    return found


PARITY = {
    "step": (StepDecay(0.3, 7, "steps"), lambda rule, s: s.StepLR(rule, 7, 0.3)),
    "exponential": (Exponential(0.05, "steps"), lambda rule, s: s.ExponentialLR(rule, math.exp(-0.05))),
    "inverse_time": (InverseTime(0.2, "steps"), lambda rule, s: s.LambdaLR(rule, lambda t: 1 / (1 + 0.2 * t))),
    "cosine": (Cosine(0.1), lambda rule, s: s.CosineAnnealingLR(rule, 50, eta_min=0.1)),
    "constant": (ConstantSchedule(), lambda rule, s: s.ConstantLR(rule, 1.0, 1)),
    "inverse_sqrt": (InverseSqrt(3, "steps"), lambda rule, s: s.LambdaLR(rule, lambda t: (3 / (3 + t)) ** 0.5)),
    "harmonic": (Harmonic(3, "steps"), lambda rule, s: s.LambdaLR(rule, lambda t: 3 / (3 + t))),
    "linear": (LinearDecay(0.1, 30, "steps"), lambda rule, s: s.LinearLR(rule, 1.0, 0.1, 30)),
    "polynomial": (Polynomial(0.9, 0.0, None, "steps"), lambda rule, s: s.PolynomialLR(rule, 50, 0.9)),
    "ramp": (Ramp(0.2, 1.0, "linear", 40, "steps"), lambda rule, s: s.LinearLR(rule, 0.2, 1.0, 40)),
    "warm_restarts": (
        WarmRestarts(6, 2, 0.1, "steps"),
        lambda rule, s: s.CosineAnnealingWarmRestarts(rule, 6, 2, eta_min=0.1),
    ),
    "one_cycle": (
        OneCycle(0.04, 0.3, 4e-6),
        lambda rule, s: s.OneCycleLR(rule, 1.0, 50, cycle_momentum=False),
    ),
    "plateau": (Plateau("val/loss", 0.1, 10, 0.0, 0, 0.0), lambda rule, s: s.ConstantLR(rule, 1.0, 1)),
    # torch's first factor is the start; it is whole after total_iters steps, here at the last step of the climb.
    "warmup": (
        Warmup(10, "steps", 0.1, StepDecay(0.5, 8, "steps")),
        lambda rule, s: s.SequentialLR(rule, [s.LinearLR(rule, 0.19, 1.0, 9), s.StepLR(rule, 8, 0.5)], [10]),
    ),
}


@schedules
@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # SequentialLR's own doing
def test_the_rates_are_those_of_torchs_schedulers(name):
    ours, make = PARITY[name]
    assert course(ours, 50, per_epoch=4) == pytest.approx(theirs(make, 50), rel=1e-9)


# ------------------------------------------------------------------------------------------- in a run


WARM = (
    "schedule=warmup",
    "schedule.length=1.5",
    "schedule.start=0.2",
    "schedule@schedule.then=exponential",
    "schedule.then.k=0.4",
)


def test_the_logged_rates_follow_the_formula(tmp_path):
    """Three steps an epoch: a climb of round(4.5) = 4, then a decay in epochs that begins at its end."""
    _, (run,) = train_runs(tmp_path, build_blobs(*WARM, "log_every=1", "optimizer.lr=0.02"))
    wanted = [0.2 + 0.8 * (t + 1) / 4 for t in range(4)] + [math.exp(-0.4 * t / 3) for t in range(5)]
    assert [row["lr"] for row in run.rows()] == pytest.approx([0.02 * f for f in wanted])


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_stopped_within_its_warmup_or_after_it_goes_on_bit_by_bit(stop, tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*WARM, "log_every=1"))

    run = interrupt_run(tmp_path / "run", stop, build_blobs(*WARM, "log_every=1"))
    _, run = resume_run(run.path, build_blobs(*WARM, "log_every=1"))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


def test_lanes_may_each_follow_a_schedule_of_their_own(tmp_path):
    variants = [
        (),
        ("schedule=cosine",),
        WARM,
        (*WARM, "schedule.length=1"),
        ("schedule=custom", "schedule._target_=mine.Sawtooth"),
    ]
    common = ("precision=float64", "log_every=1")
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*common, *v) for v in variants))
    for i, v in enumerate(variants):
        _, (alone,) = train_runs(tmp_path / f"solo{i}", build_blobs(*common, *v))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(alone), rtol=1e-9, atol=1e-9)
        assert [r["lr"] for r in lanes[i].rows()] == pytest.approx([r["lr"] for r in alone.rows()])

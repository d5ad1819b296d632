"""Schedules: properties of every option, formulas, trajectories of torch, and runs."""

import itertools
import math
from pathlib import Path

import mine
import pytest
import torch
from helpers import (
    BLOBS,
    assert_build_refused,
    assert_refused,
    build_blobs,
    compose_config,
    interrupt_run,
    list_options,
    load_weights,
    make_option,
    read_rows,
    resume_run,
    train_runs,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pytorch_optimizer.lr_scheduler.rex import REXScheduler

from dlopt.cli import main
from dlopt.config.build import build
from dlopt.config.compose.nested_options import to_hydra
from dlopt.config.problems import ConfigError
from dlopt.parts import TrainingTime
from dlopt.schedule.constant import ConstantSchedule
from dlopt.schedule.cosine import Cosine
from dlopt.schedule.exponential import Exponential
from dlopt.schedule.harmonic import Harmonic
from dlopt.schedule.inverse_sqrt import InverseSqrt
from dlopt.schedule.inverse_time import InverseTime
from dlopt.schedule.linear import LinearDecay
from dlopt.schedule.multistep import MultiStep
from dlopt.schedule.one_cycle import OneCycle
from dlopt.schedule.plateau import Plateau
from dlopt.schedule.polynomial import Polynomial
from dlopt.schedule.ramp import Ramp
from dlopt.schedule.rex import Rex
from dlopt.schedule.sequence import ScheduleSequence
from dlopt.schedule.step import StepDecay
from dlopt.schedule.triangular import Triangular
from dlopt.schedule.warm_restarts import WarmRestarts
from dlopt.schedule.warmup import Warmup
from dlopt.schedule.wsd import WarmupStableDecay

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
SCHEDULES = {name: make_option("schedule", name) for name in list_options("schedule")}
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


def trace(schedule, steps, per_epoch=1):
    """Return the factors of a whole run."""
    return [schedule(TrainingTime(step, steps, per_epoch)) for step in range(steps)]


def advance(time, by=1):
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
    st.builds(
        MultiStep, st.lists(st.integers(1, 100), unique=True).map(sorted), st.floats(0, 1, exclude_min=True), units
    ),
    st.builds(Rex, st.floats(0, 0.99), finals, taus, units),
    st.builds(
        WarmupStableDecay,
        st.just(0.0),
        st.floats(0, 1),
        st.sampled_from(["linear", "cosine", "one_minus_sqrt"]),
        finals,
        st.just("run"),
    ),
    st.builds(Ramp, st.just(1.0), st.floats(0.01, 1), st.sampled_from(["linear", "geometric"]), taus, units),
)
"""Schedules that start at one and never rise."""


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
    if name in ("warmup", "sequence") and steps < 10:
        pytest.skip("a run shorter than its first part is refused")
    assert 0 < SCHEDULES[name](TrainingTime(0, steps, 1)) < math.inf


@relaxed
@given(schedule=decays, time=times())
def test_a_decay_starts_at_one_and_never_rises(schedule, time):
    assert schedule(time._replace(step=0)) == 1.0
    assert 0 <= schedule(time) <= 1
    assert schedule(advance(time)) <= schedule(time) + 1e-15  # the sum of two terms is rounded


@relaxed
@given(time=times())
def test_time_in_epochs_is_whole_where_an_epoch_starts(time):
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
        (Rex(0.5, gamma, every, "steps"), Rex(0.5, gamma, every, "epochs")),
        (MultiStep([every, 60], gamma, "steps"), MultiStep([every, 60], gamma, "epochs")),
        *(
            (
                Triangular(gamma, every, k + 0.1, mode, 0.9, "steps"),
                Triangular(gamma, every, k + 0.1, mode, 0.9, "epochs"),
            )
            for mode in ("triangular", "triangular2", "exp_range")
        ),
    ):
        assert one(time) == other(time)


# ------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_goes_from_one_through_the_middle_to_its_end(final):
    f = [Cosine(final)(TrainingTime(step, 100, 7)) for step in range(101)]
    assert f[0] == 1.0
    assert f[50] == pytest.approx((1 + final) / 2)
    assert f[100] == pytest.approx(final)
    last = final + (1 - final) * math.sin(math.pi / 200) ** 2  # (1 + cos(pi - x)) / 2 = sin(x / 2)^2
    assert f[99] == pytest.approx(last, abs=1e-12)


@relaxed
@given(time=times(), final=finals)
def test_cosine_is_antisymmetric_about_its_middle(time, final):
    mirrored = time._replace(step=time.steps - time.step)
    assert Cosine(final)(time) + Cosine(final)(mirrored) == pytest.approx(1 + final)


@relaxed
@given(time=times(), k=st.floats(1e-3, 10), unit=units)
def test_the_inverse_of_a_decay_is_a_straight_line(time, k, unit):
    """Exponential: the solution of f' = -k f with f(0) = 1."""
    for f, invert in (
        (Exponential(k, unit), lambda x: -math.log(x)),
        (InverseTime(k, unit), lambda x: 1 / x - 1),
        (Harmonic(1 / k, unit), lambda x: 1 / x - 1),
        (InverseSqrt(1 / k, unit), lambda x: x**-2 - 1),
    ):
        if f(time) > 1e-200:
            assert invert(f(time)) == pytest.approx(k * time.t(unit), rel=1e-6, abs=1e-9)
    assert Exponential(math.log(2) / 8, "epochs")(TrainingTime(24 * 13, 10**6, 13)) == pytest.approx(1 / 8)
    assert InverseTime(0.25, "epochs")(TrainingTime(4 * 7, 10**6, 7)) == 0.5


@relaxed
@given(time=times(), gamma=st.floats(0.01, 1), every=st.integers(1, 50), unit=units)
def test_step_decay_counts_its_falls(time, gamma, every, unit):
    """In epochs the falls are counted in whole ones, and come where an epoch begins."""
    f = StepDecay(gamma, every, unit)
    done = time.step if unit == "steps" else time.step // time.per_epoch
    assert f(time) == pytest.approx(gamma ** (done // every), abs=1e-300)
    if f(time) != f(advance(time)):
        assert time.step + 1 == (done // every + 1) * every * (time.per_epoch if unit == "epochs" else 1)


@relaxed
@given(time=times(), k=st.floats(0, 1))
def test_the_staircase_of_exponential_decay_is_step_decay(time, k):
    whole = time._replace(step=time.step // time.per_epoch * time.per_epoch)
    stairs = StepDecay(math.exp(-k), 1, "epochs")(time)
    assert stairs == pytest.approx(Exponential(k, "epochs")(whole), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("unit", ["steps", "epochs"])
@pytest.mark.parametrize("steps", [60, 30])
def test_a_line_reaches_its_end_after_its_length_and_stays(unit, steps):
    """Goodfellow et al., equation 8.14, at the first, a middle and the last step of the line, and after it."""
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
def test_a_ramp_changes_by_equal_steps_or_by_equal_factors(time, start, end, length, unit):
    n = time.in_steps(length, unit)
    assume(time.step + 1 < n)
    linear, geometric = (Ramp(start, end, shape, length, unit) for shape in ("linear", "geometric"))
    assert linear(advance(time)) - linear(time) == pytest.approx((end - start) / n, abs=1e-9)
    assert math.log(geometric(advance(time)) / geometric(time)) == pytest.approx(math.log(end / start) / n, abs=1e-9)
    for ramp in (linear, geometric):
        assert ramp(time._replace(step=0)) == pytest.approx(start)
        assert ramp(time._replace(step=math.ceil(n))) == end


@pytest.mark.parametrize("key", ["start", "end"])
def test_a_geometric_ramp_has_no_end_at_zero(key):
    keys = {"start": 0.5, "end": 1.0, "shape": "geometric", "length": 4, "unit": "steps"} | {key: 0.0}
    assert_refused(lambda: Ramp(**keys), key, "shape=geometric")
    assert Ramp(0.0, 1.0, "linear", 4, "steps")(TrainingTime(1, 9, 1)) == 0.25


@relaxed
@given(first=st.integers(1, 20), multiplier=st.integers(1, 3), final=finals, per_epoch=st.integers(1, 9))
def test_every_period_between_restarts_is_a_cosine_of_its_own(first, multiplier, final, per_epoch):
    lengths = [first * per_epoch * multiplier**i for i in range(4)]
    f = WarmRestarts(first, multiplier, final, "epochs")
    factors = trace(f, sum(lengths), per_epoch)
    for n in lengths:
        period, factors = factors[:n], factors[n:]
        assert period == pytest.approx(trace(Cosine(final), n))
        assert period[0] == 1.0


@pytest.mark.parametrize(("multiplier", "restarts"), [(1, [0, 11, 22, 33]), (2, [0, 11, 33])])
def test_a_first_period_that_is_not_whole_is_rounded(multiplier, restarts):
    factors = trace(WarmRestarts(1.1, multiplier, 0.0, "epochs"), 40, per_epoch=10)
    assert [t for t, factor in enumerate(factors) if factor == 1.0] == restarts


def test_warm_restarts_end_with_their_current_period():
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
    assert abs(f(advance(time)) - f(time)) <= math.pi / 2 / max(width, 1) + 1e-9 or time.step + 1 == time.steps


def test_one_cycle_at_its_first_step_its_peak_and_its_last():
    f = trace(OneCycle(0.04, 0.3, 0.001), 100)
    assert (f[0], f[29], f[99]) == pytest.approx((0.04, 1.0, 0.001))
    assert f[64] == pytest.approx((1 + 0.001) / 2, abs=1e-9)
    assert trace(OneCycle(0.04, 0.3, 0.001), 1) == [1.0]
    assert trace(OneCycle(0.04, 0.0, 0.001), 3) == pytest.approx([1.0, (1 + 0.001) / 2, 0.001])


def test_multistep_falls_at_its_milestones():
    """In epochs of ten steps: 0.7 epochs is step 7, although 0.7 * 10 is rounded up."""
    factors = trace(MultiStep([0.7, 1, 2.5], 0.5, "epochs"), 30, per_epoch=10)
    assert factors == [1.0] * 7 + [0.5] * 3 + [0.25] * 15 + [0.125] * 5
    assert trace(MultiStep([], 0.5, "steps"), 3) == [1.0] * 3
    assert_refused(lambda: MultiStep([3, 3], 0.5, "steps"), "milestones", "must increase, got 3 before 3")
    assert MultiStep([2, 4], 0.5, "epochs").span(TrainingTime(0, 13, 3)) is None
    assert MultiStep([2, 4], 0.5, "epochs").span(TrainingTime(0, 12, 3)) == 13


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize("down", [None, 5])
def test_triangular_has_the_modes_of_torch(mode, down):
    ours = Triangular(0.2, 7, down, mode, 0.97, "steps")
    theirs = trace_torch(
        lambda rule, s: s.CyclicLR(rule, 0.2, 1.0, 7, down, mode=mode, gamma=0.97, cycle_momentum=False), 60
    )
    assert trace(ours, 60) == pytest.approx(theirs, rel=1e-9)
    cycle = 7 + (down or 7)
    assert [ours.span(TrainingTime(0, n, 3)) for n in (1, cycle, cycle + 1)] == [cycle, cycle, 2 * cycle]


def test_rex_is_the_ratio_of_the_paper():
    """Chen, Wolfe and Kyrillidis 2022: (1 - z) / (1/2 + 1/2 (1 - z)); and as another implementation has it."""
    z = [t / 40 for t in range(40)]
    assert trace(Rex(0.5, 0.0, None, "steps"), 40) == pytest.approx([(1 - x) / (0.5 + 0.5 * (1 - x)) for x in z])
    theirs = REXScheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0), 40, 1.0, 0.1)
    after = [theirs.get_lr(), *(theirs.step() for _ in range(59))]  # its constructor makes the first step
    assert trace(Rex(0.5, 0.1, 40, "steps"), 60) == pytest.approx(after)
    assert trace(Rex(0.0, 0.1, 40, "steps"), 60) == pytest.approx(trace(LinearDecay(0.1, 40, "steps"), 60))


WSD_DECAYS = {
    "linear": lambda rule, s: s.LinearLR(rule, 1.0, 0.1, 12),
    "cosine": lambda rule, s: s.CosineAnnealingLR(rule, 12, eta_min=0.1),
    "one_minus_sqrt": lambda rule, s: s.LambdaLR(rule, lambda t: 0.1 + 0.9 * (1 - (t / 12) ** 0.5)),
}


@pytest.mark.parametrize("shape", WSD_DECAYS)
@pytest.mark.parametrize(("warmup", "decay", "unit"), [(10, 12, "steps"), (2.5, 3, "epochs"), (0.2, 0.24, "run")])
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_wsd_is_a_sequence_of_torchs_schedulers(shape, warmup, decay, unit):
    """torch's first factor is the start; it is whole after total_iters steps, here at the last step of the climb."""
    theirs = trace_torch(
        lambda rule, s: s.SequentialLR(
            rule, [s.LinearLR(rule, 0.1, 1.0, 9), s.ConstantLR(rule, 1.0, 1), WSD_DECAYS[shape](rule, s)], [10, 38]
        ),
        50,
    )
    assert trace(WarmupStableDecay(warmup, decay, shape, 0.1, unit), 50, per_epoch=4) == pytest.approx(theirs, rel=1e-9)


@relaxed
@given(steps=st.integers(1, 300), share=st.floats(0, 1))
def test_wsd_fits_any_run_unless_its_parts_are_longer(steps, share):
    factors = trace(WarmupStableDecay(share, 1 - share, "linear", 0.0, "run"), steps)
    top = factors.index(max(factors))
    assert factors == [*sorted(factors[:top]), *sorted(factors[top:], reverse=True)]
    assert max(factors) == 1.0
    with pytest.raises(ValueError, match="longer than the run, 9; make warmup or decay smaller"):
        WarmupStableDecay(5, 5, "linear", 0.0, "steps")(TrainingTime(0, 9, 5))


# ------------------------------------------------------------------------------------------- warm-up


starts = st.floats(0, 1)


@relaxed
@given(n=st.integers(1, 60), rest=st.integers(0, 30), start=starts, then=decays)
def test_warmup_climbs_in_equal_steps_to_one_and_hands_over_there(n, rest, start, then):
    f = trace(Warmup(n, "steps", start, then), n + rest, per_epoch=7)
    assert f[n - 1] == 1.0
    rises = [b - a for a, b in itertools.pairwise([start, *f[:n]])]
    assert rises == pytest.approx([(1 - start) / n] * n, abs=1e-12)
    assert f[0] > 0
    assert f[n:] == trace(then, rest, per_epoch=7), "what follows has the rest of the run to itself"
    assert rest == 0 or f[n] == f[n - 1], "no jump where one ends and the other begins"


@relaxed
@given(time=times(), start=starts, then=decays, unit=units)
def test_warmup_of_no_length_is_what_follows(time, start, then, unit):
    assert Warmup(0, unit, start, then)(time) == then(time)


@relaxed
@given(per_epoch=st.integers(1, 50), length=st.integers(0, 4), then=decays)
def test_warmup_in_epochs_is_warmup_in_as_many_steps(per_epoch, length, then):
    steps = 5 * per_epoch
    in_epochs = Warmup(length, "epochs", 0.1, then)
    assert trace(in_epochs, steps, per_epoch) == trace(Warmup(length * per_epoch, "steps", 0.1, then), steps, per_epoch)


def test_a_fraction_of_an_epoch_is_rounded_to_whole_steps():
    assert trace(Warmup(0.5, "epochs", 0.0, ConstantSchedule()), 6, per_epoch=8) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert trace(Warmup(0.1, "epochs", 0.0, ConstantSchedule()), 4, per_epoch=30) == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_a_run_may_be_all_warmup_but_not_shorter():
    assert trace(Warmup(4, "steps", 0.0, ConstantSchedule()), 4) == [0.25, 0.5, 0.75, 1.0]
    for length, steps in ((2, "10"), (1e300, r"5e\+300"), (1e308, "inf")):
        with pytest.raises(ValueError, match=f"{steps} steps is longer than the run, 9"):
            Warmup(length, "epochs", 0.0, ConstantSchedule())(TrainingTime(0, 9, 5))


def test_warmups_follow_one_another():
    twice = Warmup(2, "steps", 0.0, Warmup(2, "steps", 0.5, Cosine(0.0)))
    assert trace(twice, 8)[:4] == [0.5, 1.0, 0.75, 1.0]
    assert trace(twice, 8)[4:] == trace(Cosine(0.0), 4)


# ------------------------------------------------------------------------------------------- sequence


@relaxed
@given(n=st.integers(1, 60), rest=st.integers(0, 30), first=decays, then=decays)
def test_each_part_of_a_sequence_has_a_run_of_its_own(n, rest, first, then):
    f = trace(ScheduleSequence(n, "steps", first, then), n + rest, per_epoch=7)
    assert f == trace(first, n, per_epoch=7) + trace(then, rest, per_epoch=7)


def test_sequences_follow_one_another_and_know_their_length():
    three = ScheduleSequence(
        2, "steps", Cosine(0.0), ScheduleSequence(0.5, "epochs", Rex(0.5, 0.0, None, "steps"), Cosine(0.1))
    )
    assert trace(three, 10, per_epoch=8) == [
        *trace(Cosine(0.0), 2),
        *trace(Rex(0.5, 0.0, None, "steps"), 4),
        *trace(Cosine(0.1), 4),
    ]
    assert three.span(TrainingTime(0, 10, 8)) == 10
    assert ScheduleSequence(4, "steps", Cosine(0.0), Exponential(0.1, "steps")).span(TrainingTime(0, 9, 3)) is None
    assert trace(ScheduleSequence(4, "steps", Cosine(0.0), Cosine(0.0)), 4) == trace(Cosine(0.0), 4)
    with pytest.raises(ValueError, match="a first part of 10 steps is longer than the run, 9; make length smaller"):
        ScheduleSequence(2, "epochs", Cosine(0.0), Cosine(0.0))(TrainingTime(0, 9, 5))


PARTS = (
    "schedule=sequence", "schedule.first=linear", "schedule.length=1", "schedule.then=sequence",
    "schedule.then.first=cosine", "schedule.then.length=3", "schedule.then.unit=steps", "schedule.then.then=multistep",
)  # fmt: skip


def test_a_sequence_is_composed_from_the_command_line_and_checked_by_its_keys():
    overrides = [to_hydra(text) for text in PARTS]
    schedule = build_blobs(*overrides).schedule
    assert schedule == ScheduleSequence(
        1, "epochs", LinearDecay(0.01, None, "epochs"),
        ScheduleSequence(3, "steps", Cosine(0.0), MultiStep([30, 60, 80], 0.1, "epochs")),
    )  # fmt: skip
    for key, value, words in (
        ("schedule.then.first.final", "2", ">= 0 and <= 1"),
        ("schedule.then.then.milestones", "[3,2]", "must increase, got 3 before 2"),
        ("schedule.then.length", "0", "must be > 0"),
    ):
        assert_build_refused(lambda key=key, value=value: build_blobs(*overrides, f"{key}={value}"), key, words)
    assert_build_refused(lambda: build_blobs(*overrides, "schedule.length=4"), "schedule", "longer than the run, 9")


# ------------------------------------------------------------------------------------------- history


FOLLOW = ("schedule=custom", "schedule._target_=mine.FollowMetric", "log_every=1", "precision=float64")


def test_a_schedule_gets_every_evaluation_so_far(tmp_path):
    """After each of three epochs of three steps; the rows between are not evaluations."""
    _, (run,) = train_runs(tmp_path, build_blobs(*FOLLOW, "+schedule.monitor=val/accuracy", "optimizer.lr=1.0"))
    rows = run.rows()
    values = [row["val/accuracy"] for row in rows if "val/accuracy" in row]
    assert len(values) == 3
    expected = [1 / 2] * 3 + [1 / (3 + values[0])] * 3 + [1 / (4 + values[1])] * 3
    assert [row["lr"] for row in rows] == expected


def test_time_after_some_steps_has_the_same_history():
    history = ({"step": 3, "val/loss": 1.0},)
    assert TrainingTime(5, 9, 3, history).after(2) == TrainingTime(3, 7, 3, history)
    assert TrainingTime(5, 9, 3, history).after(2).history is history


@pytest.mark.parametrize("at", ["schedule", "schedule.then"])
@pytest.mark.parametrize(
    ("metric", "fraction", "words"),
    [("val/acuracy", 0.2, "did you mean val/accuracy"), ("val/loss", 0, "needs a validation split")],
)
def test_the_monitored_metric_is_checked_inside_another_schedule_too(at, metric, fraction, words):
    inside = ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=custom")
    overrides = inside if at == "schedule.then" else ("schedule=custom",)
    monitor = (f"{at}._target_=mine.FollowMetric", f"+{at}.monitor={metric}", f"validation.fraction={fraction}")
    assert_build_refused(lambda: build_blobs(*overrides, *monitor), f"{at}.monitor", words)


def test_an_optimizer_without_a_rate_cannot_follow_a_metric():
    with pytest.raises(ConfigError, match="has no learning rate"):
        build_blobs("optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "schedule=custom",
              "schedule._target_=mine.FollowMetric", "+schedule.monitor=val/loss")  # fmt: skip


# ------------------------------------------------------------------------------------------- another length


def list_notices(*overrides):
    """Return the notices about a schedule's length before a run of nine steps, three an epoch."""
    overrides = (*BLOBS, *overrides)
    notices = build(compose_config(*overrides), overrides)[1]
    return [notice.removeprefix("schedule: ") for notice in notices if notice.startswith("schedule: ")]


NOTICES = {
    ("step", "every=30"): "9 of the 91 steps of step, where it is still 1",
    ("step", "every=8", "unit=steps"): "",
    ("linear", "tau=2"): "linear ends after 6 of the run's 9 steps and stays at 0.01",
    ("linear", "tau=18", "unit=steps"): "9 of the 18 steps of linear, down to the factor 0.56",
    ("polynomial", "length=1"): "polynomial ends after 3 of the run's 9 steps and stays at 0",
    ("ramp", "length=10.5", "unit=steps"): "9 of the 10.5 steps of ramp, up to the factor 0.881",
    ("warm_restarts", "first=1"): "",
    ("warm_restarts", "first=2"): "9 of the 18 steps of warm_restarts, down to the factor 0.933",
    ("multistep",): "9 of the 241 steps of multistep, where it is still 1",
    ("multistep", "milestones=[1,2]"): "",
    ("triangular", "up=1", "down=2"): "",
    ("triangular", "up=2"): "9 of the 12 steps of triangular, down to the factor 0.75",
    ("rex", "length=2"): "rex ends after 6 of the run's 9 steps and stays at 0",
    ("wsd",): "",
    ("sequence", "length=1"): "",
    (
        "sequence",
        "length=1",
        "then=linear",
        "then.tau=1",
    ): "sequence ends after 6 of the run's 9 steps and stays at 0.01",
    ("warmup", "length=1"): "",
    ("warmup", "length=1", "then=linear", "then.tau=1"): "warmup ends after 6 of the run's 9 steps and stays at 0.01",
    ("custom", "_target_=mine.FourSteps"): "mine ends after 4 of the run's 9 steps and stays at 0.5",
    ("custom", "_target_=mine.Sawtooth"): "",
    ("cosine",): "",
    ("exponential",): "",
    ("plateau",): "",
}


@pytest.mark.parametrize("option", NOTICES)
def test_a_run_that_is_longer_or_shorter_than_its_schedule_is_reported(option):
    name, *keys = option
    overrides = [f"schedule@schedule.{k}" if k.startswith("then=") else f"schedule.{k}" for k in keys]
    notices = list_notices(f"schedule={name}", *overrides)
    assert len(notices) == bool(NOTICES[option])
    assert NOTICES[option] in "".join(notices)


def test_a_warmup_adds_its_length_to_what_follows():
    assert Warmup(2, "epochs", 0.0, Cosine(0.1)).span(TrainingTime(0, 9, 3)) == 9
    assert Warmup(2, "epochs", 0.0, Exponential(0.1, "steps")).span(TrainingTime(0, 9, 3)) is None
    assert Warmup(3, "epochs", 0.0, StepDecay(0.1, 1, "steps")).span(TrainingTime(0, 9, 3)) is None, "nothing follows"
    assert Warmup(2, "epochs", 0.0, StepDecay(0.1, 5, "epochs")).span(TrainingTime(0, 9, 3)) == 6 + 16
    assert Warmup(2, "epochs", 0.0, mine.Sawtooth()).span(TrainingTime(0, 9, 3)) is None, (
        "a custom schedule needs no span"
    )


def test_a_run_resumed_for_longer_than_its_schedule_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(mine.__file__).parent))
    own = ("schedule=custom", "schedule._target_=mine.FourSteps", "device=cpu", "hydra.run.dir=run")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *BLOBS, *own, "steps=4"]) == 0
    assert "note: schedule" not in capsys.readouterr().err
    assert main(["train", "--trust", "resume=run", "steps=6"]) == 0
    assert "note: schedule: mine ends after 4 of the run's 6 steps and stays at 0.5" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- against torch


def trace_torch(make, steps):
    """Return the rates of a scheduler of torch, from a rate of one."""
    w = torch.nn.Parameter(torch.zeros(()))
    rule = torch.optim.SGD([w], lr=1.0)
    scheduler, rates = make(rule, torch.optim.lr_scheduler), []
    for _ in range(steps):
        rates.append(rule.param_groups[0]["lr"])
        rule.step()
        scheduler.step()
    return rates


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
    "multistep": (MultiStep([10, 20, 35], 0.3, "steps"), lambda rule, s: s.MultiStepLR(rule, [10, 20, 35], 0.3)),
    "triangular": (
        Triangular(0.25, 8, None, "triangular", 0.99, "steps"),
        lambda rule, s: s.CyclicLR(rule, 0.25, 1.0, 8, cycle_momentum=False),
    ),
    "rex": (Rex(0.5, 0.0, None, "steps"), lambda rule, s: s.LambdaLR(rule, lambda t: (50 - t) / (50 - t / 2))),
    "wsd": (
        WarmupStableDecay(0.0, 0.4, "linear", 0.1, "run"),
        lambda rule, s: s.SequentialLR(rule, [s.ConstantLR(rule, 1.0, 1), s.LinearLR(rule, 1.0, 0.1, 20)], [30]),
    ),
    "sequence": (
        ScheduleSequence(5, "epochs", Cosine(0.2), MultiStep([8, 20], 0.5, "steps")),
        lambda rule, s: s.SequentialLR(
            rule, [s.CosineAnnealingLR(rule, 20, eta_min=0.2), s.MultiStepLR(rule, [8, 20], 0.5)], [20]
        ),
    ),
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
    assert trace(ours, 50, per_epoch=4) == pytest.approx(trace_torch(make, 50), rel=1e-9)


# ------------------------------------------------------------------------------------------- in a run


WARM = (
    "schedule=warmup",
    "schedule.length=1.5",
    "schedule.start=0.2",
    "schedule@schedule.then=exponential",
    "schedule.then.k=0.4",
)


def test_the_logged_rates_follow_the_formula(tmp_path):
    """Three steps an epoch: a warm-up of round(4.5) = 4, then a decay in epochs from its end."""
    _, (run,) = train_runs(tmp_path, build_blobs(*WARM, "log_every=1", "optimizer.lr=0.02"))
    expected = [0.2 + 0.8 * (t + 1) / 4 for t in range(4)] + [math.exp(-0.4 * t / 3) for t in range(5)]
    assert [row["lr"] for row in run.rows()] == pytest.approx([0.02 * f for f in expected])


@pytest.mark.parametrize("stop", [2, 6])
def test_a_run_stopped_during_its_warmup_or_after_it_resumes_with_the_same_bits(stop, tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*WARM, "log_every=1"))

    run = interrupt_run(tmp_path / "run", stop, build_blobs(*WARM, "log_every=1"))
    _, run = resume_run(run.path, build_blobs(*WARM, "log_every=1"))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


def test_lanes_may_each_follow_a_schedule_of_their_own(tmp_path):
    variants = [("schedule=cosine",), WARM, ("schedule=custom", "schedule._target_=mine.Sawtooth")]
    common = ("precision=float64", "log_every=1", "epochs=2")
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*common, *v) for v in variants))
    for i, v in enumerate(variants):
        _, (alone,) = train_runs(tmp_path / f"solo{i}", build_blobs(*common, *v))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(alone), rtol=1e-9, atol=1e-9)
        assert [r["lr"] for r in lanes[i].rows()] == pytest.approx([r["lr"] for r in alone.rows()])

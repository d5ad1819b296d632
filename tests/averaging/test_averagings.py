"""Averages of iterates against plain means, and against torch."""

import math

import pytest
import torch
from helpers import (
    assert_build_refused,
    build_blobs,
    interrupt_run,
    load_weights,
    make_option,
    read_rows,
    resume_run,
    train_runs,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim import swa_utils

from dlopt.averaging.ema import ExponentialMovingAverage
from dlopt.averaging.lawa import LatestWeightAveraging
from dlopt.averaging.polyak import Polyak
from dlopt.averaging.swa import StochasticWeightAveraging
from dlopt.parts import TrainingTime
from dlopt.training.state import TrainState

STEPS, PER_EPOCH = 30, 4
"""A run of seven epochs and a half."""
ITERATES = torch.randn(STEPS, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)


def trace_averages(rule, steps=STEPS, per_epoch=PER_EPOCH, iterates=ITERATES):
    """Return the average after each step, None before the first."""
    state = rule.init(torch.full_like(iterates[0], math.nan))
    values = []
    for step, w in enumerate(iterates[:steps]):
        time = TrainingTime(step, steps, per_epoch)
        state = rule.update(state, w.clone(), time) if step >= rule.first(time) else state
        values.append(rule.value(state).clone() if step >= rule.first(time) else None)
    return values


def make_ema(decay, start=0, interval=1, unit="steps"):
    return ExponentialMovingAverage(decay, start, interval, unit)


@pytest.mark.parametrize(("start", "unit", "first"), [
    (0.0, "steps", 0), (7, "steps", 7), (2, "epochs", 8), (1.5, "epochs", 6), (0.0, "run", 0), (0.5, "run", 15),
    (0.9, "run", 27), (29, "steps", 29),
])  # fmt: skip
def test_polyaks_average_is_the_mean_from_its_start_on(start, unit, first):
    values = trace_averages(Polyak(start, unit))
    assert values[:first] == [None] * first
    for step in range(first, STEPS):
        torch.testing.assert_close(values[step], ITERATES[first : step + 1].mean(0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
def test_the_exponential_average_is_a_weighted_mean(decay):
    """Kingma and Ba 2015, section 7.2, with its correction written out."""
    for n, value in enumerate(trace_averages(make_ema(decay)), start=1):
        weights = torch.tensor([(1 - decay) * decay ** (n - i) for i in range(1, n + 1)], dtype=torch.float64)
        expected = torch.einsum("i,ikp->kp", weights, ITERATES[:n]) / (1 - decay**n)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)


def test_the_exponential_average_starts_as_the_mean_and_ends_as_that_of_torch():
    slow = trace_averages(make_ema(1 - 1e-9))
    torch.testing.assert_close(slow[-1], ITERATES.mean(0), rtol=1e-6, atol=1e-6)
    update = swa_utils.get_ema_multi_avg_fn(0.5)
    theirs = [ITERATES[0].clone()]
    for w in ITERATES[1:]:
        update(theirs, [w], None)
    fast = trace_averages(make_ema(0.5))
    assert torch.equal(fast[0], ITERATES[0])
    torch.testing.assert_close(fast[-1], theirs[0], rtol=1e-6, atol=1e-6)  # the start is forgotten


@pytest.mark.parametrize(("start", "interval", "unit", "steps"), [
    (0, 7, "steps", [6, 13, 20, 27]), (5, 1, "steps", range(5, STEPS)), (5, 10, "steps", [14, 24]),
    (1.5, 8, "epochs", [13, 21, 29]), (0.5, 3, "run", [17, 20, 23, 26, 29]),
])  # fmt: skip
def test_the_exponential_average_of_some_iterates_is_that_of_a_run_of_these(start, interval, unit, steps):
    values = trace_averages(make_ema(0.8, start, interval, unit))
    expected = trace_averages(make_ema(0.8), len(steps), iterates=ITERATES[list(steps)])
    for step in range(STEPS):
        n = sum(t <= step for t in steps)
        assert values[step] is None if n == 0 else torch.equal(values[step], expected[n - 1])


@pytest.mark.parametrize(("k", "interval", "unit", "steps"), [
    (3, 1, "epochs", [3, 7, 11, 15, 19, 23, 27]), (4, 5, "steps", [4, 9, 14, 19, 24, 29]), (1, 2, "epochs", [7, 15, 23]),
    (100, 1, "steps", range(STEPS)),
])  # fmt: skip
def test_latest_weight_averaging_is_the_mean_of_the_last_iterates_taken(k, interval, unit, steps):
    values = trace_averages(LatestWeightAveraging(k, interval, unit))
    for step in range(STEPS):
        taken = [t for t in steps if t <= step]
        if taken:
            torch.testing.assert_close(values[step], ITERATES[taken[-k:]].mean(0), rtol=1e-13, atol=1e-13)
        else:
            assert values[step] is None


@pytest.mark.parametrize(("start", "every", "steps"), [
    (0.0, 1, [3, 7, 11, 15, 19, 23, 27]), (0.75, 1, [23, 27]), (0.5, 1, [15, 19, 23, 27]), (0.4, 1, [11, 15, 19, 23, 27]),
    (0.0, 2, [7, 15, 23]), (0.3, 3, [11, 23]), (0.9, 1, [27]),
])  # fmt: skip
def test_stochastic_weight_averaging_averages_the_ends_of_epochs(start, every, steps):
    values = trace_averages(StochasticWeightAveraging(start, every))
    for step in range(STEPS):
        so_far = [t for t in steps if t <= step]
        if so_far:
            torch.testing.assert_close(values[step], ITERATES[so_far].mean(0), rtol=1e-13, atol=1e-13)
        else:
            assert values[step] is None


def test_stochastic_weight_averaging_is_torchs_averaged_model():
    model = torch.nn.Linear(5, 1, bias=False, dtype=torch.float64)
    theirs = swa_utils.AveragedModel(model)
    for step in (15, 19, 23, 27):
        with torch.no_grad():
            model.weight.copy_(ITERATES[step, :1])
        theirs.update_parameters(model)
    ours = trace_averages(StochasticWeightAveraging(0.5, 1))[-1][:1]
    torch.testing.assert_close(ours, theirs.module.weight.detach(), rtol=1e-12, atol=1e-12)


@example(share=7, epochs=100, per_epoch=1)
@settings(max_examples=50)
@given(share=st.integers(0, 99), epochs=st.integers(1, 200), per_epoch=st.integers(1, 700))
def test_rounding_does_not_move_a_fraction_of_the_run(share, epochs, per_epoch):
    """In integers: the first end of an epoch at or after that fraction of the run, and never before the first."""
    first = StochasticWeightAveraging(share / 100, 1).first(TrainingTime(0, epochs * per_epoch, per_epoch))
    assert first == max(-(-share * epochs // 100), 1) * per_epoch - 1


# ------------------------------------------------------------------------------------------- in a run

RUNS = {
    "polyak": (("averaging.start=0.5",), [4, 5, 6, 7, 8]),
    "swa": (("averaging.start_fraction=0.5",), [5, 8]),
    "ema": (("averaging.decay=0.9", "averaging.start=1", "averaging.interval=2"), [2, 4, 6, 8]),
    "lawa": (("averaging.k=2", "averaging.interval=4", "averaging.unit=steps"), [3, 7]),
}
"""Nine steps, three an epoch: the steps whose results are averaged."""
options = pytest.mark.parametrize("option", RUNS)


def build_run(option, *overrides):
    return build_blobs(f"averaging={option}", *RUNS[option][0], "precision=float64", "normalization=batch", *overrides)


def compute_mean(option, iterates):
    averaged = torch.stack([iterates[t] for t in RUNS[option][1]])
    if option != "ema":
        return averaged.mean(0)
    weights = 0.9 ** torch.arange(len(averaged) - 1, -1, -1, dtype=torch.float64)
    return weights @ averaged / weights.sum()


@options
def test_the_average_of_a_run_is_that_of_its_iterates(option, tmp_path, monkeypatch):
    iterates, apply_step = [], TrainState.apply_step

    def record(training, *arguments):
        apply_step(training, *arguments)
        iterates.append(training.w.clone())

    monkeypatch.setattr(TrainState, "apply_step", record)
    (summary,), (run,) = train_runs(tmp_path, build_run(option))
    saved = run.load("average")["model"]
    average = torch.cat([v.flatten() for k, v in saved.items() if "running" not in k])
    torch.testing.assert_close(average, compute_mean(option, iterates), rtol=1e-12, atol=1e-12)
    assert math.isfinite(summary["average/test/loss"])


@options
def test_each_lane_has_its_own_average(option, tmp_path):
    """The first diverges at its first evaluation and leaves the others."""
    variants = (("optimizer=sgd", "optimizer.lr=1e300"), ("optimizer=sgd", "seed=1"), ("optimizer=sgd", "seed=2"))
    summaries, lanes = train_runs(tmp_path / "lanes", *(build_run(option, *v) for v in variants))
    assert [s["status"] for s in summaries] == ["diverged", "done", "done"]
    (alone,), (run,) = train_runs(tmp_path / "alone", build_run(option, *variants[2]))
    torch.testing.assert_close(load_weights(lanes[2], "average"), load_weights(run, "average"), rtol=1e-9, atol=1e-12)
    assert summaries[2]["average/test/loss"] == pytest.approx(alone["average/test/loss"], rel=1e-9)


@options
@pytest.mark.parametrize("stop", [3, 7])
def test_an_average_resumes_with_the_same_bits(option, stop, tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_run(option))
    run = interrupt_run(tmp_path / "run", stop, build_run(option))
    _, run = resume_run(run.path, build_run(option))
    assert torch.equal(load_weights(run, "average"), load_weights(straight, "average"))
    assert read_rows(run) == read_rows(straight)


@options
def test_training_does_not_change(option, tmp_path):
    _, (run,) = train_runs(tmp_path / "averaged", build_run(option))
    _, (plain,) = train_runs(tmp_path / "plain", build_blobs("precision=float64", "normalization=batch"))
    assert torch.equal(load_weights(run), load_weights(plain))


def test_the_defaults_start_where_they_should():
    time = TrainingTime(0, 400, 4)
    assert {name: make_option("averaging", name).first(time) for name in RUNS} == {
        "polyak": 200, "swa": 299, "ema": 0, "lawa": 3,
    }  # fmt: skip


@pytest.mark.parametrize(("overrides", "key", "words"), [
    (["averaging=polyak", "averaging.start=1"], "averaging", "after step 10; the run ends after step 9"),
    (["averaging=polyak", "averaging.start=1e308", "averaging.unit=epochs"], "averaging", "the run ends after step 9"),
    (["averaging=polyak", "averaging.start=-1"], "averaging.start", ">= 0"),
    (["averaging=polyak", "averaging.unit=hours"], "averaging.unit", "one of steps, epochs, run"),
    (["averaging=swa", "averaging.every=4"], "averaging", "after step 12; the run ends after step 9"),
    (["averaging=ema", "averaging.decay=1"], "averaging.decay", "< 1"),
    (["averaging=ema", "averaging.interval=10"], "averaging", "after step 10; the run ends after step 9"),
    (["averaging=ema", "averaging.start=1", "averaging.unit=run"], "averaging", "the run ends after step 9"),
    (["averaging=lawa", "averaging.interval=4"], "averaging", "after step 12; the run ends after step 9"),
])  # fmt: skip
def test_an_average_of_nothing_is_refused(overrides, key, words):
    assert_build_refused(lambda: build_blobs(*overrides), key, words)

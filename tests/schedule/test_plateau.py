"""Decay on a plateau: torch's algorithm, in a run, in lanes, and resumed."""

import math

import pytest
import torch
from helpers import (
    assert_build_refused,
    build_blobs,
    interrupt_run,
    load_weights,
    make_counting_row,
    read_rows,
    resume_run,
    train_runs,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt.parts import History, TrainingTime
from dlopt.schedule.plateau import Plateau

PLATEAU = ("schedule=plateau", "schedule.patience=0", "schedule.factor=0.5", "schedule.threshold=0.05",
           "precision=float64", "log_every=1", "epochs=8")  # fmt: skip
"""It falls often: one evaluation without improvement suffices."""


def trace_torch(values, mode, **keys):
    """Return the rate of torch's scheduler after each value, from a rate of one."""
    rule = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(rule, mode, threshold_mode="abs", eps=0, **keys)
    rates = []
    for value in values:
        scheduler.step(value)
        rates.append(rule.param_groups[0]["lr"])
    return rates


curve = st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.35, 0.5, 0.9, math.nan]) | st.floats(0, 1), max_size=60)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    values=curve,
    metric=st.sampled_from(["val/loss", "val/accuracy", "train/r2"]),
    factor=st.floats(0.05, 0.95),
    patience=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 0.1]),
    cooldown=st.integers(0, 4),
    min_factor=st.sampled_from([0.0, 0.2]),
)
def test_it_falls_where_torchs_scheduler_does(values, metric, factor, patience, threshold, cooldown, min_factor):
    rule = Plateau(metric, factor, patience, threshold, cooldown, min_factor)
    mode = "min" if metric == "val/loss" else "max"
    expected = trace_torch(
        values, mode, factor=factor, patience=patience, threshold=threshold, cooldown=cooldown, min_lr=min_factor
    )
    rows, history = [{metric: value} for value in values], History()
    for n, value in enumerate(expected):
        history = history.append(rows[n])
        for time in (history, tuple(rows[: n + 1])):  # with running state, and from the start
            assert rule(TrainingTime(n + 1, len(values) + 1, 1, time)) == value


@given(values=st.lists(st.integers(0, 9) | st.none(), max_size=40))
def test_evaluations_without_the_metric_do_not_count(values):
    """As those before the first averaged iterate."""
    rule = Plateau("average/val/loss", 0.5, 1, 0.0, 1, 0.0)
    rows = tuple({"val/loss": 1.0} if v is None else {"average/val/loss": v} for v in values)
    counted = tuple(row for row in rows if "average/val/loss" in row)
    assert rule(TrainingTime(50, 60, 1, rows)) == rule(TrainingTime(50, 60, 1, counted))


def test_it_starts_at_one_and_does_not_depend_on_earlier_calls():
    history = tuple({"step": 3 * n, "val/loss": 1.0} for n in range(1, 6))
    rule = Plateau("val/loss", 0.5, 0, 0.0, 0, 0.0)
    expected = [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625]
    for n in (0, 5, 2, 2, 0, 5, 1, 3, 4):
        assert rule(TrainingTime(15, 20, 3, history[:n])) == expected[n]


def test_between_evaluations_it_reads_no_row():
    """A step costs the same after any number of evaluations."""

    Row = make_counting_row()
    history = History(Row(step=n, **{"val/loss": 1.0}) for n in range(1000))
    rule = Plateau("val/loss", 0.5, 10, 0.0, 0, 0.0)
    for step in range(50):
        rule(TrainingTime(1000 + step, 2000, 1, history).after(3))
    assert Row.reads == 1000
    rule(TrainingTime(1050, 2000, 1, history.append(Row(step=1001, **{"val/loss": 1.0}))))
    assert Row.reads == 1001


def compute_rates(rows, keys):
    """Return the rate of each row by torch's scheduler, stepped after each evaluation."""
    values = [row["val/loss"] for row in rows if "val/loss" in row]
    rates = [1.0, *trace_torch(values, "min", **keys)]
    return [rates[sum("val/loss" in other for other in rows[:i])] for i in range(len(rows))]


def test_the_rate_of_a_run_falls_after_its_evaluations(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(*PLATEAU, "optimizer.lr=0.1"))
    rates = compute_rates(run.rows(), {"factor": 0.5, "patience": 0, "threshold": 0.05})
    assert len(set(rates)) > 3, "otherwise the test shows nothing"
    assert [row["lr"] for row in run.rows()] == pytest.approx([0.1 * rate for rate in rates])


@pytest.mark.parametrize("stop", [9, 13])
def test_a_run_resumes_with_its_rate(stop, tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*PLATEAU))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*PLATEAU))
    _, run = resume_run(run.path, build_blobs(*PLATEAU))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


def test_each_lane_falls_by_its_own_metric_when_others_have_left_too(tmp_path):
    """The first lane diverges."""
    variants = [("optimizer.lr=1e300",), ("seed=1",), ("seed=2", "schedule.factor=0.1")]
    common = [[*PLATEAU, "optimizer=sgd", *v] for v in variants]
    summaries, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*overrides) for overrides in common))
    assert summaries[0]["status"] == "diverged"
    for i in (1, 2):
        _, (alone,) = train_runs(tmp_path / str(i), build_blobs(*common[i]))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(alone), rtol=1e-9, atol=1e-9)
        assert [r["lr"] for r in lanes[i].rows()] == pytest.approx([r["lr"] for r in alone.rows()])
    rates = [{row["lr"] for row in run.rows()} for run in lanes]
    assert len(rates[1]) > 1


def test_after_a_warmup_it_starts_from_the_whole_rate(tmp_path):
    warm = ("schedule=warmup", "schedule.length=1", "schedule@schedule.then=plateau", "schedule.then.patience=0",
            "schedule.then.threshold=100", "log_every=1", "optimizer.lr=1.0")  # fmt: skip
    _, (run,) = train_runs(tmp_path, build_blobs(*warm))
    lowest = 0.1  # the second evaluation is not better by 100 than the first
    assert [row["lr"] for row in run.rows()] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, *[lowest] * 3])


@pytest.mark.parametrize(("overrides", "key", "words"), [
    (["schedule.monitor=val/acc"], "schedule.monitor", "did you mean"),
    (["validation.fraction=0"], "schedule.monitor", "needs a validation split"),
    (["schedule.factor=1"], "schedule.factor", "> 0 and < 1"),
    (["schedule.patience=-1"], "schedule.patience", ">= 0"),
    (["optimizer=custom", "optimizer._target_=mine.NormalizedDescent"], "schedule", "has no learning rate"),
])  # fmt: skip
def test_an_invalid_plateau_is_refused(overrides, key, words):
    assert_build_refused(lambda: build_blobs("schedule=plateau", *overrides), key, words)

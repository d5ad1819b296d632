"""The estimated cost of a run equals the cost of a real run, and the estimate leaves no files."""

import dataclasses
import tempfile

import pytest
import torch
from helpers import build_blobs

from dlopt.rundir.writer import RunWriter
from dlopt.training import cost
from dlopt.training.control import TrainingControl
from dlopt.training.cost import Cost, CostModel, RunLength, estimate_cost, folder_size
from dlopt.training.loop import train


def begin_with(experiment):
    return lambda folder: (experiment, RunWriter.create(folder))


def get_length(experiment):
    return RunLength.of(experiment.settings, len(experiment.train), drop_last=experiment.drop_last)


FIGURES = CostModel(
    once=Cost(5.0, 1000.0),
    step=Cost(0.5, 1.0),
    evaluation=Cost(2.0, 30.0),
    rows={4: Cost(0.25, 7.0)},
    checkpoint=Cost(1.0, 200.0),
    history=3.0,
)


def test_the_cost_is_the_sum_of_its_parts():
    plain = FIGURES.cost(RunLength(20, 10, 2, None, None, 2))
    assert plain == Cost(5 + 10 + 4 + 5 * 0.25, 1000 + 20 + 60 + 35 + 2 * 3)
    with_checkpoints = FIGURES.cost(RunLength(20, 10, 2, 6, None, 3))  # after 6, 12 and 18; two of them stay
    assert with_checkpoints == plain + Cost(3.0, 2 * 200 + 2 * 2 * 3)


def test_a_checkpoint_at_the_last_step_is_not_counted_twice():
    assert FIGURES.cost(RunLength(20, 10, 2, 20, None, 2)) == FIGURES.cost(RunLength(20, 10, 2, None, None, 2))


def test_checkpoints_by_time_depend_on_the_estimated_time():
    plain = RunLength(240, 120, 2, None, None, 9)
    seconds = FIGURES.cost(plain).seconds
    assert 120 < seconds < 180
    assert FIGURES.cost(dataclasses.replace(plain, minutes=1.0)).seconds == seconds + 2 * FIGURES.checkpoint.seconds


@pytest.mark.parametrize(
    "keys", [["epochs=4"], ["epochs=5", "eval_every=2"], ["steps=7"], ["batch_size=full", "epochs=4"], ["steps=2"]]
)
def test_the_length_equals_the_length_of_the_run(keys, tmp_path):
    experiment = build_blobs(*keys)
    run = RunWriter.create(tmp_path / "run")
    (summary,) = train([experiment], [run], TrainingControl())
    expected = get_length(experiment)
    assert (expected.steps, expected.evaluations) == (summary["step"], len(run.rows()))
    assert expected.steps / expected.epoch == summary["epoch"]


def test_seconds_by_the_clock(monkeypatch):
    """On a simulated clock all numbers are exact."""
    now = [0.0]
    original_step, original_evaluate = cost.step, cost.Recorder._evaluate

    def step(*args):
        now[0] += 0.25
        original_step(*args)

    def evaluate(recorder):
        now[0] += 2.0
        return original_evaluate(recorder)

    monkeypatch.setattr(cost, "step", step)
    monkeypatch.setattr(cost.Recorder, "_evaluate", evaluate)
    experiment = build_blobs("epochs=30", "log_every=2")

    def begin(folder):
        now[0] += 7.0
        return begin_with(experiment)(folder)

    estimate = estimate_cost(begin, 20.0, clock=lambda: now[0])
    model = estimate.cost_model
    assert model.step.seconds == 0.25
    assert model.evaluation.seconds == 2.0
    assert model.rows[2].seconds == 0.0
    assert model.once.seconds == 7.0
    assert estimate.cost(experiment.settings).seconds == 7.0 + 90 * 0.25 + 30 * 2.0


@pytest.mark.parametrize(
    "keys",
    [
        ["epochs=40"],
        ["epochs=40", "log_every=2"],
        ["epochs=20", "diagnostic=gradients", "diagnostic.gradients.every=4"],
        ["epochs=20", "checkpoint.every=6", "checkpoint.keep=4"],
        ["batch_size=full", "validation.fraction=0", "epochs=60"],
    ],
    ids=lambda keys: "-".join(keys[-1:]),
)
def test_bytes_equal_those_of_a_real_run(keys, tmp_path):
    experiment = build_blobs(*keys)
    estimate = estimate_cost(begin_with(experiment), 0.05).cost(experiment.settings)
    run = RunWriter.create(tmp_path / "run")
    train([experiment], [run], TrainingControl())
    assert estimate.bytes == pytest.approx(folder_size(run.path), rel=0.2)
    assert estimate.seconds > 0


@pytest.mark.parametrize(
    "keys",
    [
        ["optimizer=sgd", "optimizer.lr=1e30"],
        ["regularization=early_stopping"],
        ["steps=1"],
        ["tolerance.gradient=1e6"],
    ],
)
def test_a_run_that_would_end_early_is_estimated_to_its_end(keys):
    experiment = build_blobs("epochs=200", *keys)
    estimate = estimate_cost(begin_with(experiment), 0.02)
    assert estimate.cost_model.step.seconds > 0
    assert estimate.cost_model.evaluation.bytes > 100


def test_an_estimate_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    experiment = build_blobs()
    before = experiment.w.clone()
    estimate_cost(begin_with(experiment), 0.01)
    assert torch.equal(experiment.w, before)

    def fail(folder):
        RunWriter.create(folder)
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        estimate_cost(fail, 0.01)
    assert not list(tmp_path.iterdir())

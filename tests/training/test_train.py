"""The loop, against hand-written twins, against itself in lanes, and against its own promises."""

import contextlib
import dataclasses
import io
import json
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    DEVICE,
    build_blobs,
    build_experiment,
    interrupt_run,
    load_weights,
    read_rows,
    resume_run,
    train_runs,
)

from dlopt import prng
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Augmentation, Regularization
from dlopt.rundir.writer import RunWriter
from dlopt.storage import atomic

LANES = (
    "normalization=batch",
    "regularization=[l2,dropout]",
    "precision=float64",
    "diagnostic=gradients",
    "augmentation=custom",
    "augmentation.custom._target_=mine.Jitter",
    "+augmentation.custom.size=0.2",
)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_two_lanes_equal_two_solo_runs(optimizer, tmp_path):
    """Batch norm, dropout, penalty, augmentation; other seed, rate, init, dropout probability, penalty and schedule."""
    one = (*LANES, f"optimizer={optimizer}", "schedule=cosine")
    two = (*one, "seed=1", "optimizer.lr=0.02", "init=normal", "init.std=0.3", "regularization.dropout.p=0.2",
           "regularization.l2.strength=0.01", "schedule.final=0.5")  # fmt: skip
    together, lanes = train_runs(tmp_path / "lanes", build_blobs(*one), build_blobs(*two))
    for i, overrides in enumerate((one, two)):
        (alone,), (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*overrides))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(load_weights(lanes[i], "best"), load_weights(run, "best"), rtol=1e-9, atol=1e-9)
        for mine, other in zip(read_rows(lanes[i]), read_rows(run), strict=True):
            assert mine == pytest.approx(other, rel=1e-8, abs=1e-9)
        kept = [k for k in alone if k.startswith(("train/", "val/", "test/", "last/", "best/"))]
        assert {k: together[i][k] for k in kept} == pytest.approx({k: alone[k] for k in kept}, rel=1e-8, abs=1e-9)


def test_folds_of_one_size_in_lanes_equal_solo_runs(tmp_path):
    folds = [("validation.scheme=kfold", f"validation.fold={i}", *LANES, "preprocess=standardize") for i in (0, 3)]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*fold) for fold in folds))
    for i, fold in enumerate(folds):
        _, (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*fold))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run), rtol=1e-9, atol=1e-9)
        for mine, other in zip(read_rows(lanes[i]), read_rows(run), strict=True):
            assert mine == pytest.approx(other, rel=1e-8, abs=1e-9)


def test_folds_of_two_sizes_do_not_share_lanes(tmp_path):
    """60 examples in 7 folds: 51 are left, or 52."""
    folds = [build_blobs("validation.scheme=kfold", "validation.k=7", f"validation.fold={i}") for i in (0, 6)]
    assert [len(fold.train) for fold in folds] == [51, 52]
    with pytest.raises(ValueError, match="must agree in data"):
        train_runs(tmp_path, *folds)


def test_a_lane_that_leaves_does_not_disturb_the_others(tmp_path):
    """One diverges in the first epoch, one stops early; the third must not notice."""
    early = ("regularization=early_stopping", "regularization.early_stopping.patience=1", "precision=float64", "epochs=8",
             "optimizer=momentum", "normalization=batch")  # fmt: skip
    variants = [
        (*early, "optimizer.lr=1e200"),
        (*early, "seed=2", "regularization.early_stopping.min_delta=10"),
        (*early, "seed=3", "regularization.early_stopping.patience=100"),
    ]
    summaries, runs = train_runs(tmp_path / "lanes", *(build_blobs(*v) for v in variants))
    assert [s["status"] for s in summaries] == ["diverged", "done", "done"]
    assert [s["step"] for s in summaries] == [3, 6, 24]
    for i in (1, 2):
        _, (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*variants[i]))
        torch.testing.assert_close(load_weights(runs[i]), load_weights(run), rtol=1e-9, atol=1e-9)
        assert len(read_rows(runs[i])) == len(read_rows(run))


def test_lanes_that_cannot_share_their_arithmetic_are_refused(tmp_path):
    for other in ("optimizer=sgd", "arch.widths=[9]", "activation=tanh", "batch_size=8", "data.train_size=40"):
        with pytest.raises(ValueError, match="must agree in"):
            train_runs(tmp_path / other, build_blobs(), build_blobs(other))


def test_training_equals_a_loop_written_by_hand(tmp_path):
    """Plain PyTorch on the same initial weights and the same order of examples."""
    experiment = build_blobs(
        "precision=float64", "optimizer=momentum", "regularization=l2", "validation.fraction=0", "batch_size=25"
    )
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    torch.nn.utils.vector_to_parameters(experiment.w, model.parameters())
    (summary,), (run,) = train_runs(tmp_path, experiment)

    x, y = experiment.train.inputs.double(), experiment.train.targets
    weight = [p for p in model.parameters() if p.ndim == 2]
    rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(3):
        order = torch.randperm(60, generator=prng.generator(prng.key(0, "order", epoch)))
        total = right = 0.0
        for rows in order.split(25):
            outputs = model(x[rows])
            loss = F.cross_entropy(outputs, y[rows])
            rule.zero_grad()
            (loss + 0.5e-4 * sum(p.square().sum() for p in weight)).backward()
            rule.step()
            total += loss.item() * len(rows)
            right += (outputs.argmax(1) == y[rows]).sum().item()
        row = run.rows()[epoch]
        assert row["train/loss"] == pytest.approx(total / 60, rel=1e-12)
        assert row["train/accuracy"] == pytest.approx(right / 60)
    by_hand = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(load_weights(run), by_hand, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        test = F.cross_entropy(model(experiment.test.inputs.double()), experiment.test.targets).item()
    assert summary["test/loss"] == pytest.approx(test, rel=1e-12)


def test_the_same_run_twice_is_the_same_bit_by_bit(tmp_path):
    one, two = (train_runs(tmp_path / n, build_blobs(*LANES[:2]))[1][0] for n in "ab")
    assert torch.equal(load_weights(one), load_weights(two))
    assert read_rows(one) == read_rows(two)
    other = train_runs(tmp_path / "c", build_blobs(*LANES[:2], "seed=1"))[1][0]
    assert not torch.equal(load_weights(one), load_weights(other))


def test_instruments_disturb_nothing(tmp_path):
    """All of them on, and one that asks the objective for more: bitwise the same weights and curves."""
    plain = build_blobs("normalization=batch", "regularization=dropout")
    watched = build_blobs(
        "normalization=batch", "regularization=dropout", "diagnostic=[gradients,custom]", "diagnostic.gradients.every=1",
        "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=2",
    )  # fmt: skip
    (run,), (seen,) = train_runs(tmp_path / "a", plain)[1], train_runs(tmp_path / "b", watched)[1]
    assert torch.equal(load_weights(run), load_weights(seen))
    logged = {row["step"]: row for row in read_rows(seen)}
    assert all(logged[row["step"]].items() >= row.items() for row in read_rows(run))
    assert [row["step"] for row in read_rows(seen)] == list(range(1, 10))
    assert [row["mine/count"] for row in read_rows(seen) if "mine/count" in row] == [1.0, 2.0, 3.0, 4.0]


def test_a_rule_that_looks_elsewhere_first_takes_the_steps_of_one_that_does_not(tmp_path):
    common = ("normalization=batch", "regularization=dropout", "precision=float64")
    plain = train_runs(tmp_path / "a", build_blobs(*common, "optimizer=sgd", "optimizer.lr=0.05"))[1][0]
    curious = build_blobs(*common, "optimizer=custom", "optimizer._target_=mine.ExtraEvaluations", "+optimizer.lr=0.05")
    (summary,), (run,) = train_runs(tmp_path / "b", curious)
    torch.testing.assert_close(load_weights(run), load_weights(plain), rtol=1e-12, atol=1e-14)  # running statistics too
    assert summary["evaluations"] == 9 * 7


def test_an_out_of_place_rule_works_alone_and_in_lanes(tmp_path):
    own = ("optimizer=custom", "optimizer._target_=mine.Sign", "+optimizer.lr=0.01", "precision=float64")
    _, lanes = train_runs(tmp_path / "lanes", build_blobs(*own), build_blobs(*own, "seed=1", "optimizer.lr=0.03"))
    _, (alone,) = train_runs(tmp_path / "solo", build_blobs(*own, "seed=1", "optimizer.lr=0.03"))
    torch.testing.assert_close(load_weights(lanes[1]), load_weights(alone), rtol=1e-12, atol=1e-14)


def test_what_comes_after_a_step_sees_both_iterates(tmp_path):
    """Pulled all the way back, training goes nowhere; in lanes each is pulled by its own share."""
    pull = ("regularization=custom", "regularization.custom._target_=mine.PullBack", "precision=float64")
    still = build_blobs(*pull, "+regularization.custom.share=1.0")
    _, (run,) = train_runs(tmp_path / "still", still)
    torch.testing.assert_close(load_weights(run), still.w.double(), rtol=0, atol=1e-15)
    shares = [(*pull, f"+regularization.custom.share={s}", "optimizer=sgd") for s in (0.25, 0.75)]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*s) for s in shares))
    for i, s in enumerate(shares):
        _, (alone,) = train_runs(tmp_path / f"solo{i}", build_blobs(*s))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(alone), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_interrupted_and_resumed_equals_uninterrupted(optimizer, stop, tmp_path):
    """From the middle of an epoch or its end: the same bits and the same rows."""
    overrides = (f"optimizer={optimizer}", "schedule=cosine", "normalization=batch", "batch_size=13",
                 "regularization=[dropout,early_stopping]", "log_every=2")  # fmt: skip
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))

    again = interrupt_run(tmp_path / "run", stop, build_blobs(*overrides))
    second, again = resume_run(again.path, build_blobs(*overrides))
    assert second["status"] == "done"
    assert torch.equal(load_weights(again), load_weights(straight))
    assert torch.equal(load_weights(again, "best"), load_weights(straight, "best"))
    assert read_rows(again) == read_rows(straight)
    clock = ("seconds", "steps_per_second", "peak_memory")
    assert {k: v for k, v in second.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}


MIXED = (
    "data=custom", "data._target_=mine.Blobs", "+data.shape=[1,6,6]", "arch=mlp", "arch.widths=[8]", "batch_size=13",
    "epochs=4", f"device={DEVICE}", "augmentation=[flip_horizontal,cowmix]", "log_every=2",
)  # fmt: skip
"""A tiny problem whose targets are mixed: 48 examples for training, four steps an epoch, the last one smaller."""


def test_lanes_of_mixed_targets_equal_solo_runs(tmp_path):
    one = (*MIXED, "precision=float64", "normalization=batch")
    two = (*one, "seed=1", "optimizer.lr=0.02")
    together, lanes = train_runs(tmp_path / "lanes", build_experiment(*one), build_experiment(*two))
    for i, overrides in enumerate((one, two)):
        (alone,), (run,) = train_runs(tmp_path / f"solo{i}", build_experiment(*overrides))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run), rtol=1e-9, atol=1e-9)
        for mine, other in zip(read_rows(lanes[i]), read_rows(run), strict=True):
            assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)
        assert together[i]["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-9)


@pytest.mark.parametrize("stop", [3, 8])
def test_mixed_targets_resume_to_the_same_bits(stop, tmp_path):
    """From the middle of an epoch, whose targets are in the checkpoint, or its end."""
    _, (straight,) = train_runs(tmp_path / "straight", build_experiment(*MIXED))
    run = interrupt_run(tmp_path / "run", stop, build_experiment(*MIXED))
    _, run = resume_run(run.path, build_experiment(*MIXED))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_training_on_mixed_targets_equals_a_loop_written_by_hand(kind, tmp_path):
    """Classes become probabilities, numbers are mixed as they are; accuracy is that against the largest."""
    problem = BLOBS if kind == "classes" else (*BLOBS, "data._target_=mine.Regression", "loss=mse")
    experiment = build_experiment(
        *problem, "precision=float64", "optimizer=sgd", "optimizer.lr=0.1", "validation.fraction=0", "batch_size=25",
        "augmentation=custom", "augmentation.custom._target_=mine.MixOpposites",
    )  # fmt: skip
    outputs = 3 if kind == "classes" else 1
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs)).double()
    torch.nn.utils.vector_to_parameters(experiment.w, model.parameters())
    _, (run,) = train_runs(tmp_path, experiment)

    x, y = experiment.train.inputs.double(), experiment.train.targets
    targets = torch.eye(3, dtype=torch.float64)[y] if kind == "classes" else y.double()
    rule = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        order = torch.randperm(60, generator=prng.generator(prng.key(0, "order", epoch)))
        total = right = 0.0
        for rows in order.split(25):
            mixed = (targets[rows] + targets[rows.flip(0)]) / 2
            made = model((x[rows] + x[rows.flip(0)]) / 2)
            expected = -(mixed * made.log_softmax(1)).sum(1) if kind == "classes" else (made - mixed).square()
            loss = expected.mean()
            rule.zero_grad()
            loss.backward()
            rule.step()
            total += loss.item() * len(rows)
            right += (made.argmax(1) == mixed.argmax(1)).sum().item()
        row = run.rows()[epoch]
        assert row["train/loss"] == pytest.approx(total / 60, rel=1e-12)
        if kind == "classes":
            assert row["train/accuracy"] == pytest.approx(right / 60)
    by_hand = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(load_weights(run), by_hand, rtol=1e-12, atol=1e-14)


def test_a_regularization_that_mixes_targets_gets_probabilities_in_training_alone(tmp_path):
    """The loss of training is that of the changed targets, the losses of validation and test are of the classes."""
    own = ("regularization=custom", "regularization.custom._target_=mine.SoftTargets", "precision=float64", "epochs=1")
    one_step = build_blobs(
        *own, "batch_size=full", "averaging=custom", "averaging._target_=mine.RunningMean", "normalization=batch"
    )
    (summary,), (run,) = train_runs(tmp_path, one_step)
    problem = Problem(one_step.model.double(), one_step.loss)
    x, y = one_step.train.gather()
    first = MiniBatchObjective(problem, x.double(), y, prng.key(0))
    first.gradient(one_step.w)
    soft = 0.9 * torch.eye(3, dtype=torch.float64)[y] + 0.1 / 3
    expected = -(soft * first.first.outputs.log_softmax(1)).sum(1).mean()
    assert run.rows()[0]["train/loss"] == pytest.approx(expected.item(), rel=1e-12)
    right = (first.first.outputs.argmax(1) == y).double().mean()
    assert run.rows()[0]["train/accuracy"] == pytest.approx(right.item())
    one_step.model.load_state_dict(run.load("last")["model"])
    one_step.model.eval()
    for split, name in ((one_step.validation, "val/loss"), (one_step.test, "test/loss")):
        inputs, targets = split.gather()
        plain = F.cross_entropy(one_step.model(inputs.double()), targets)
        assert summary[name] == pytest.approx(plain.item(), rel=1e-10)
    assert math.isfinite(summary["average/val/loss"])


def test_a_regularization_of_gradients_is_between_the_objective_and_the_rule(tmp_path):
    """Half of each gradient is half the rate; instruments see the whole of it."""
    watched = ("optimizer=momentum", "precision=float64", "diagnostic=gradients", "diagnostic.gradients.every=1")
    half = build_blobs(
        *watched, "regularization=custom", "regularization.custom._target_=mine.HalfGradient", "optimizer.lr=0.1"
    )
    _, (run,) = train_runs(tmp_path / "half", half)
    _, (slow,) = train_runs(tmp_path / "slow", build_blobs(*watched, "optimizer.lr=0.05"))
    torch.testing.assert_close(load_weights(run), load_weights(slow), rtol=1e-13, atol=1e-15)
    for mine, other in zip(run.rows(), slow.rows(), strict=True):
        assert mine["gradient/norm"] == pytest.approx(other["gradient/norm"], rel=1e-12)


def test_a_regularization_of_gradients_is_told_the_step(tmp_path):
    told = []

    class Witness(Regularization):
        def gradient(self, g, key, step, layout):
            told.append(step)
            return g

    for experiments in ([build_blobs()], [build_blobs(), build_blobs("seed=1")]):
        told.clear()
        train_runs(
            tmp_path / str(len(experiments)),
            *(dataclasses.replace(e, regularization={"w": Witness()}) for e in experiments),
        )
        assert told == list(range(9))


def test_every_augmentation_of_a_run_gets_what_can_be_mixed(tmp_path):
    """Those before the one that mixes too, and all batches, a batch of the whole split too."""
    kinds = []

    class Witness(Augmentation):
        def __call__(self, inputs, targets, key):
            kinds.append((tuple(targets.shape), targets.dtype))
            return inputs, targets

    mixing = ("augmentation=custom", "augmentation.custom._target_=mine.MixOpposites", "epochs=1")
    for size in ("48", "full"):
        experiment = build_blobs(*mixing, f"batch_size={size}")
        witnessed = dataclasses.replace(experiment, augmentation={"witness": Witness(), **experiment.augmentation})
        train_runs(tmp_path / size, witnessed)
    assert kinds == [((48, 3), torch.float32)] * 2
    kinds.clear()
    train_runs(tmp_path / "plain", dataclasses.replace(build_blobs("epochs=1"), augmentation={"witness": Witness()}))
    assert kinds == [((16,), torch.int64)] * 3


def test_a_diverged_run_is_a_result(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs("optimizer=sgd", "optimizer.lr=1e38"))
    assert summary["status"] == run.status["status"] == "diverged"
    assert "not finite" in run.status["message"]
    assert run.rows()[-1]["train/loss"] is None  # JSON has no NaN
    json.loads(run.summary_file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    """The summary's figures belong to the best row, and the best checkpoint's weights give its validation loss."""
    experiment = build_blobs("epochs=40", "optimizer.lr=0.3", "precision=float64", "data.label_noise=0.3")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    losses = [row["val/loss"] for row in run.rows()]
    best = losses.index(min(losses))
    assert best < 39, "the test needs a run that over-fits"
    assert summary["val/loss"] == min(losses)
    assert summary["best/step"] == run.rows()[best]["step"]
    assert summary["last/val/loss"] == losses[-1]
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    for which, key in (("best", "val/loss"), ("last", "last/val/loss")):
        model.load_state_dict(dict(zip(model.state_dict(), run.load(which)["model"].values(), strict=True)))
        x, y = experiment.validation.gather()
        assert F.cross_entropy(model(x.double()), y).item() == pytest.approx(summary[key], rel=1e-12)


def test_a_metric_that_rises_chooses_the_best_weights(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs("epochs=6", "objective=val/accuracy", "optimizer.lr=0.05"))
    assert summary["val/accuracy"] == max(row["val/accuracy"] for row in run.rows())


def test_without_validation_everything_is_trained_on_and_the_last_weights_count(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs("validation.fraction=0", "batch_size=60"))
    assert not any(k.startswith("val/") for k in summary)
    assert summary["test/loss"] == summary["last/test/loss"]
    assert summary["best/step"] == summary["step"] == 3
    assert torch.isfinite(load_weights(run, "best")).all()


@pytest.mark.parametrize(
    ("overrides", "steps", "rows"),
    [
        (["epochs=2"], 6, [3, 6]),
        (["steps=4"], 4, [3, 4]),
        (["epochs=4", "eval_every=2"], 12, [6, 12]),
        (["epochs=2", "log_every=2"], 6, [2, 3, 4, 6]),
        (["batch_size=full", "epochs=5"], 5, [1, 2, 3, 4, 5]),
        (["batch_size=full", "epochs=5", "eval_every=3"], 5, [3, 5]),
        (["batch_size=1", "epochs=1"], 48, [48]),
        (["batch_size=20", "epochs=1"], 3, [3]),
        (["batch_size=20", "epochs=1", "data.drop_last=true"], 2, [2]),
    ],
)
def test_steps_epochs_and_rows(overrides, steps, rows, tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*overrides))
    assert summary["step"] == steps
    assert [row["step"] for row in run.rows()] == rows
    assert all("train/loss" in row and "train/accuracy" in row for row in run.rows())
    assert "val/loss" in run.rows()[-1]


def test_full_batch_gradient_descent_falls_at_every_step(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs("batch_size=full", "epochs=30", "optimizer=sgd", "optimizer.lr=0.05"))
    losses = [row["train/loss"] for row in run.rows()]
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))


def test_the_rate_follows_its_schedule(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs("schedule=cosine", "log_every=1", "optimizer.lr=0.02"))
    wanted = [0.02 * (1 + math.cos(math.pi * t / 9)) / 2 for t in range(9)]
    assert [row["lr"] for row in run.rows()] == pytest.approx(wanted)


SLOWED = (
    "optimizer=custom",
    "optimizer._target_=mine.ScaledStep",
    "+optimizer.share=0.5",
    "+optimizer.base={_target_: dlopt.optimizer.momentum.HeavyBall, lr: 0.02, momentum: 0.9, dampening: 0.0}",
    "precision=float64",
    "log_every=1",
)


def test_the_rate_of_a_rule_inside_another_follows_the_schedule(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(*SLOWED, "schedule=cosine", "regularization=weight_decay"))
    wanted = [0.02 * (1 + math.cos(math.pi * t / 9)) / 2 for t in range(9)]
    assert [row["lr"] for row in run.rows()] == pytest.approx(wanted)


def test_lanes_may_differ_in_the_numbers_of_a_rule_inside_another(tmp_path):
    """Rates, schedules and momenta of their own; the lane that is given up leaves the others as they were."""
    variants = [
        ("optimizer.base.lr=0.3", "schedule=cosine"),
        ("optimizer.base.momentum=0.5", "optimizer.share=0.9"),
        ("optimizer.base.lr=1e30",),
        ("optimizer.base.lr=0.001", "seed=3"),
    ]
    summaries, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*SLOWED, *v) for v in variants))
    assert [s["status"] for s in summaries] == ["done", "done", "diverged", "done"]
    for i in (0, 1, 3):
        _, (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*SLOWED, *variants[i]))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run), rtol=1e-9, atol=1e-9)
        assert [r["lr"] for r in lanes[i].rows()] == pytest.approx([r["lr"] for r in run.rows()])


def test_lanes_agree_in_the_rule_inside_another(tmp_path):
    other = [o.replace("momentum.HeavyBall", "nesterov.Nesterov").replace(", dampening: 0.0", "") for o in SLOWED]
    with pytest.raises(ValueError, match="must agree in base"):
        train_runs(tmp_path, build_blobs(*SLOWED), build_blobs(*other))


def test_early_stopping_ends_the_run(tmp_path):
    early = (
        "regularization=early_stopping",
        "regularization.early_stopping.patience=2",
        "epochs=200",
        "optimizer.lr=0.5",
    )
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*early))
    assert summary["status"] == "done"
    assert summary["step"] < 600
    losses = [row["val/loss"] for row in run.rows()]
    assert losses.index(min(losses)) == len(losses) - 3


def test_averaged_weights_are_evaluated_beside(tmp_path):
    """With statistics of their own; training itself is not touched."""
    common = ("normalization=batch", "precision=float64")
    averaged = build_blobs(*common, "averaging=custom", "averaging._target_=mine.RunningMean")
    (run,), (plain,) = train_runs(tmp_path / "a", averaged)[1], train_runs(tmp_path / "b", build_blobs(*common))[1]
    assert torch.equal(load_weights(run), load_weights(plain))
    assert all(math.isfinite(row["average/val/loss"]) for row in run.rows())
    assert run.rows()[-1]["average/val/loss"] != run.rows()[-1]["val/loss"]


def test_regression(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_experiment(
        "data=custom", "data._target_=mine.Regression", "loss=mse", "arch=linear", "optimizer=sgd", "optimizer.lr=0.02",
        "epochs=60", "batch_size=12", f"device={DEVICE}",
    ))  # fmt: skip
    assert summary["test/r2"] > 0.95
    assert "test/accuracy" not in summary


def test_bfloat16_trains_float32_weights(tmp_path):
    experiment = build_blobs(
        "precision=bfloat16", "normalization=batch", "regularization=dropout", "epochs=20", "optimizer.lr=0.02"
    )
    (summary,), (run,) = train_runs(tmp_path, experiment)
    assert summary["status"] == "done"
    assert summary["test/accuracy"] > 0.6
    assert all(v.dtype == torch.float32 for v in run.load("last")["model"].values())


def test_a_net_of_torchs_own_stateful_modules_is_taken_in(tmp_path):
    """BatchNorm and Dropout become pure: lanes equal solo runs, and looking twice changes nothing."""
    own = ("arch=custom", "arch._target_=mine.NormDropoutNet", "precision=float64", "optimizer=sgd")
    first = build_experiment(
        "data=custom", "data._target_=mine.Blobs", "batch_size=16", "epochs=3", f"device={DEVICE}", *own
    )
    second = build_experiment(
        "data=custom", "data._target_=mine.Blobs", "batch_size=16", "epochs=3", f"device={DEVICE}", "seed=1", *own
    )
    _, lanes = train_runs(tmp_path / "lanes", first, second)
    second = build_experiment(
        "data=custom", "data._target_=mine.Blobs", "batch_size=16", "epochs=3", f"device={DEVICE}", "seed=1", *own
    )
    _, (alone,) = train_runs(tmp_path / "solo", second)
    torch.testing.assert_close(load_weights(lanes[1]), load_weights(alone), rtol=1e-9, atol=1e-12)
    assert {"norm.running_mean", "norm.running_var", "norm.weight"} <= lanes[0].load("last")["model"].keys()


def test_settings_of_every_lane_but_the_seed_agree():
    one, two = build_blobs(), build_blobs("seed=3")
    assert dataclasses.replace(one.settings, seed=3) == two.settings


def test_batch_norm_in_the_loop_equals_torchs_own(tmp_path):
    """Running statistics move once per step, by torch's convention, and inference uses them."""
    experiment = build_blobs(
        "precision=float64", "optimizer=sgd", "normalization=batch", "validation.fraction=0", "batch_size=25"
    )
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    torch.nn.utils.vector_to_parameters(experiment.w, model.parameters())
    (summary,), (run,) = train_runs(tmp_path, experiment)
    x, y = experiment.train.inputs.double(), experiment.train.targets
    rule = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        order = torch.randperm(60, generator=prng.generator(prng.key(0, "order", epoch)))
        for rows in order.split(25):
            rule.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            rule.step()
    saved = run.load("last")["model"]
    torch.testing.assert_close(saved["hidden.1.running_mean"], model[1].running_mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(saved["hidden.1.running_var"], model[1].running_var, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        test = F.cross_entropy(model.eval()(experiment.test.inputs.double()), experiment.test.targets).item()
    assert summary["test/loss"] == pytest.approx(test, rel=1e-10)


@pytest.mark.parametrize("stop", [2, 5])
def test_resuming_restores_averages_instruments_and_the_best_weights(stop, tmp_path):
    """The best evaluation lies before the interruption; the rate is such that nothing after is better."""
    overrides = ("averaging=custom", "averaging._target_=mine.RunningMean", "diagnostic=gradients", "diagnostic.gradients.every=1",
                 "log_every=1", "optimizer=sgd", "optimizer.lr=30", "precision=float64")  # fmt: skip
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*overrides))
    second, run = resume_run(run.path, build_blobs(*overrides))
    assert read_rows(run) == read_rows(straight)
    assert torch.equal(load_weights(run, "best"), load_weights(straight, "best"))
    clock = ("seconds", "steps_per_second", "peak_memory")
    assert {k: v for k, v in second.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    (_,), (straight,) = train_runs(tmp_path / "straight", build_blobs())
    run = RunWriter.create(tmp_path / "run")
    run.log({"step": 3, "epoch": 1.0, "seconds": 1.0, "train/loss": 9.0})
    run.finish("failed")
    _, again = resume_run(run.path, build_blobs())
    assert read_rows(again) == read_rows(straight)
    assert len(list(run.path.glob("events.*"))) == 1


def test_what_instruments_ask_is_not_counted(tmp_path):
    watched = build_blobs(
        "diagnostic=custom", "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=1"
    )
    (summary,), _ = train_runs(tmp_path, watched)
    assert summary["evaluations"] == 9


def test_statistics_for_averaged_weights_are_those_of_the_training_split(tmp_path):
    from dlopt.training.batches import DataPlacement, Examples
    from dlopt.training.evaluation import recompute_statistics

    experiment = build_blobs("normalization=batch", "precision=float64")
    problem = Problem(experiment.model.double(), experiment.loss)
    examples = Examples([experiment.train], DataPlacement(torch.device("cpu"), torch.float64), lanes=False)
    found = recompute_statistics(problem, experiment.w, examples)
    hidden = examples.all()[0] @ problem.layout.views(experiment.w)["hidden.0.weight"].T
    torch.testing.assert_close(found["hidden.1.running_mean"], hidden.mean(0))
    torch.testing.assert_close(found["hidden.1.running_var"], hidden.var(0))


@pytest.mark.parametrize("data", [(), ("data._target_=mine.Regression", "loss=mse")])
def test_an_epochs_row_does_not_depend_on_rows_within_it_or_on_checkpoints(data, tmp_path):
    plain, often = (
        train_runs(tmp_path / n, build_blobs(*data, *more))[1][0] for n, more in (("a", ()), ("b", ("log_every=1",)))
    )
    saved = train_runs(tmp_path / "c", build_blobs(*data, "checkpoint.every=2"))[1][0]
    wanted = read_rows(plain)
    assert read_rows(saved) == wanted
    assert [row for row in read_rows(often) if "val/loss" in row] == wanted


def test_more_outputs_than_are_kept_give_the_same_means(tmp_path, monkeypatch):
    from dlopt.training import running_metrics

    _, (plain,) = train_runs(tmp_path / "plain", build_blobs("precision=float64", "batch_size=13", "log_every=2"))
    monkeypatch.setattr(running_metrics, "MAX_BUFFERED", 40)
    _, (folded,) = train_runs(tmp_path / "folded", build_blobs("precision=float64", "batch_size=13", "log_every=2"))
    for a, b in zip(read_rows(plain), read_rows(folded), strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_weights_that_are_not_finite_after_the_last_step_are_a_divergence(tmp_path):
    bold = ("optimizer=sgd", "optimizer.lr=3e38", "regularization=l2", "regularization.l2.strength=100", "steps=1")
    (summary,), _ = train_runs(tmp_path, build_blobs(*bold))
    assert summary["status"] == "diverged"


def test_a_diverged_lane_leaves_in_the_middle_of_an_epoch(tmp_path):
    common = ("log_every=1", "optimizer=sgd", "precision=float64", "normalization=batch")
    _, lanes = train_runs(
        tmp_path / "lanes", build_blobs(*common, "optimizer.lr=1e300"), build_blobs(*common, "seed=1")
    )
    _, (alone,) = train_runs(tmp_path / "solo", build_blobs(*common, "seed=1"))
    for mine, other in zip(read_rows(lanes[1]), read_rows(alone), strict=True):
        assert mine == pytest.approx(other, rel=1e-8, abs=1e-9)


def test_an_experiment_can_be_trained_twice(tmp_path):
    experiment = build_blobs("normalization=batch", "regularization=dropout")
    one, two = (train_runs(tmp_path / n, experiment)[1][0] for n in "ab")
    assert read_rows(one) == read_rows(two)
    assert torch.equal(load_weights(one), load_weights(two))


def test_torchs_switches_are_left_as_they_were(tmp_path):
    torch.set_num_threads(2)
    train_runs(tmp_path, build_blobs("threads=1"))
    assert torch.get_num_threads() == 2


FROZEN = ("data=custom", "data._target_=mine.Blobs", "batch_size=16", "epochs=2", f"device={DEVICE}", "arch=custom",
          "arch._target_=mine.FrozenNet")  # fmt: skip


@pytest.mark.parametrize("other", ["seed=1", "arch.scale=3.0"])
def test_lanes_agree_in_what_is_not_trained(other, tmp_path):
    with pytest.raises(ValueError, match="must agree in network"):
        train_runs(
            tmp_path, build_experiment(*FROZEN, "+arch.scale=1.0"), build_experiment(*FROZEN, "+arch.scale=1.0", other)
        )


def test_a_checkpoint_loads_into_the_users_own_class(tmp_path):
    """Frozen, tied and trained weights: all there, and the network makes the test loss of the summary."""
    import mine

    experiment = build_experiment(*FROZEN, "optimizer.lr=0.05")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    net = mine.FrozenNet((4,), 3)
    net.load_state_dict(run.load("best")["model"])
    with torch.no_grad():
        test = F.cross_entropy(net(experiment.test.inputs), experiment.test.targets).item()
    assert summary["test/loss"] == pytest.approx(test, rel=1e-5)


def test_inputs_of_whole_numbers_stay_so(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_experiment("data=custom", "data._target_=mine.IntegerBlobs", "arch=custom", "arch._target_=mine.EmbeddingNet",
                                            "batch_size=16", "epochs=2", f"device={DEVICE}"))  # fmt: skip
    assert summary["status"] == "done"


def test_the_best_of_steps_that_are_gone_is_gone_too(tmp_path):
    """A process that was killed had a better one after its last checkpoint, on a course that is not taken again."""
    run = interrupt_run(tmp_path / "run", 3, build_blobs())
    run.lock.acquire()
    content = run.load("best")
    ahead = {name: value + 1.0 for name, value in content["model"].items()}
    run.save("best", content | {"step": 6, "model": ahead})
    run.lock.release()
    summary, _ = resume_run(run.path, build_blobs("optimizer.lr=1e-12"))
    best = run.load("best")
    assert best["step"] == summary["best/step"]
    assert not any(torch.equal(best["model"][name], value) for name, value in ahead.items())


@pytest.mark.parametrize("often", [("checkpoint.every=1",), ("diagnostic=gradients", "diagnostic.gradients.every=1")])
def test_where_a_diverging_run_ends_does_not_depend_on_what_watches_it(often, tmp_path):
    """It ends at a row of its own: neither a checkpoint nor an instrument, which see it before, ends it earlier."""
    overrides = ("optimizer=sgd", "optimizer.lr=1e38", "epochs=8", "eval_every=4")
    (plain,), _ = train_runs(tmp_path / "plain", build_blobs(*overrides))
    (watched,), (run,) = train_runs(tmp_path / "watched", build_blobs(*overrides, *often))
    assert plain["status"] == watched["status"] == "diverged"
    assert plain["step"] == watched["step"] == 12
    if run.checkpoint("last").exists():
        assert torch.isfinite(load_weights(run)).all(), "what is not finite is nothing to go on from"


def test_a_full_disk_is_told_as_one_though_torch_says_something_else(tmp_path):
    """A limit on the size of files stands for it: torch's writer makes another error of it."""
    import resource
    import signal

    run = RunWriter.create(tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.save("last", {"step": 1, "model": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(run.checkpoint("last").parent.iterdir()) == []
    run.finish("failed")


def test_an_interrupt_while_a_checkpoint_is_written_is_one_though_torch_says_something_else(tmp_path, monkeypatch):
    run = RunWriter.create(tmp_path / "run")
    run.save("last", {"step": 1, "model": torch.zeros(3)})

    class Stream(io.BytesIO):
        def write(self, content):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(atomic, "atomic_write", lambda *_, **__: contextlib.nullcontext(Stream()))
        run.save("last", {"step": 2, "model": torch.zeros(3)})
    assert run.load("last")["step"] == 1
    run.finish("interrupted")

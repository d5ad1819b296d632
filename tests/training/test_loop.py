"""The training loop against loops written by hand, and its promises."""

import dataclasses
import json
import math

import mine
import pytest
import torch
import torch.nn.functional as F
from helpers import BLOBS, build_blobs, build_experiment, interrupt_run, load_weights, read_rows, train_runs

from dlopt import prng
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Augmentation, Regularization
from dlopt.training import recorder, running_metrics

MIX = ("augmentation=custom", "augmentation.custom._target_=mine.MixOpposites")
RANDOM = ("normalization=batch", "regularization=dropout")
MLP = {
    "blobs": lambda: [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)],
    "batch norm": lambda: [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)],
    "regression": lambda: [torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)],
}


@pytest.mark.parametrize(("network", "overrides"), [
    ("blobs", ("optimizer=momentum", "regularization=l2")),
    ("batch norm", ("optimizer=sgd", "optimizer.lr=0.1", "normalization=batch")),
    ("blobs", ("optimizer=sgd", "optimizer.lr=0.1", *MIX)),
    ("regression", ("optimizer=sgd", "optimizer.lr=0.1", *MIX, "data._target_=mine.Regression", "loss=mse")),
])  # fmt: skip
def test_training_equals_a_loop_written_by_hand(network, overrides, tmp_path):
    """Plain PyTorch on the same initial weights and order of examples.

    Mixed classes become probabilities, and accuracy compares with the most probable class; mixed numbers stay numbers.
    """
    experiment = build_blobs("precision=float64", "validation.fraction=0", "batch_size=25", *overrides)
    model = torch.nn.Sequential(*MLP[network]()).double()
    torch.nn.utils.vector_to_parameters(experiment.w, model.parameters())
    (summary,), (run,) = train_runs(tmp_path, experiment)

    x, y = experiment.train.inputs.double(), experiment.train.targets
    mixes, classes = MIX[0] in overrides, network != "regression"
    targets = torch.eye(3, dtype=torch.float64)[y] if classes else y.double()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=experiment.optimizer.lr, momentum=0.9 if "optimizer=momentum" in overrides else 0.0
    )
    penalized = [p for p in model.parameters() if p.ndim == 2] if experiment.regularization else []
    for epoch in range(3):
        order = torch.randperm(60, generator=prng.generator(prng.key(0, "order", epoch)))
        total = correct = 0.0
        for rows in order.split(25):
            inputs, wanted = x[rows], targets[rows]
            if mixes:
                inputs, wanted = (inputs + inputs.flip(0)) / 2, (wanted + wanted.flip(0)) / 2
            outputs = model(inputs)
            losses = -(wanted * outputs.log_softmax(1)).sum(1) if classes else (outputs - wanted).square()
            optimizer.zero_grad()
            (losses.mean() + 0.5e-4 * sum(p.square().sum() for p in penalized)).backward()
            optimizer.step()
            total += losses.sum().item()
            correct += (outputs.argmax(1) == wanted.argmax(1)).sum().item()
        row = run.rows()[epoch]
        assert row["train/loss"] == pytest.approx(total / 60, rel=1e-12)
        if classes:
            assert row["train/accuracy"] == pytest.approx(correct / 60)
    expected = [value for name, value in model.state_dict().items() if "num_batches" not in name]
    for value, other in zip(run.load("last")["model"].values(), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-12)
    loss = F.cross_entropy if classes else F.mse_loss
    with torch.no_grad():
        test = loss(model.eval()(experiment.test.inputs.double()), experiment.test.targets.to(y.dtype)).item()
    assert summary["test/loss"] == pytest.approx(test, rel=1e-10 if classes else 1e-6)


def test_a_run_is_a_function_of_its_seed(tmp_path):
    """The same experiment trained twice, and an equal one, give the same bits; another seed does not."""
    experiment = build_blobs(*RANDOM)
    (one, two, three, other) = (
        train_runs(tmp_path / str(i), e)[1][0]
        for i, e in enumerate([experiment, experiment, build_blobs(*RANDOM), build_blobs(*RANDOM, "seed=1")])
    )
    for run in (two, three):
        assert torch.equal(load_weights(one), load_weights(run))
        assert read_rows(one) == read_rows(run)
    assert not torch.equal(load_weights(one), load_weights(other))


def test_diagnostics_and_averages_change_nothing(tmp_path):
    """Bitwise the same weights and curves, although one diagnostic asks the objective for more gradients."""
    (summary,), (run,) = train_runs(tmp_path / "a", build_blobs(*RANDOM))
    (watched,), (seen,) = train_runs(tmp_path / "b", build_blobs(
        *RANDOM, "diagnostic=[gradients,custom]", "diagnostic.gradients.every=1",
        "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=2",
        "averaging=custom", "averaging._target_=mine.RunningMean",
    ))  # fmt: skip
    assert torch.equal(load_weights(run), load_weights(seen))
    rows = {row["step"]: row for row in read_rows(seen)}
    assert list(rows) == list(range(1, 10))
    assert all(rows[row["step"]].items() >= row.items() for row in read_rows(run))
    assert [row["mine/count"] for row in rows.values() if "mine/count" in row] == [1.0, 2.0, 3.0, 4.0]
    assert summary["evaluations"] == watched["evaluations"] == 9
    assert all(math.isfinite(rows[step]["average/val/loss"]) for step in (3, 6, 9))
    assert rows[9]["average/val/loss"] != rows[9]["val/loss"]


def test_an_optimizer_that_evaluates_elsewhere_first_takes_the_same_steps(tmp_path):
    common = (*RANDOM, "precision=float64")
    _, (plain,) = train_runs(tmp_path / "a", build_blobs(*common, "optimizer=sgd", "optimizer.lr=0.05"))
    own = ("optimizer=custom", "optimizer._target_=mine.ExtraEvaluations", "+optimizer.lr=0.05")
    (summary,), (run,) = train_runs(tmp_path / "b", build_blobs(*common, *own))
    torch.testing.assert_close(load_weights(run), load_weights(plain), rtol=1e-12, atol=1e-14)  # running statistics too
    assert summary["evaluations"] == 9 * 7


def test_a_regularization_after_a_step_receives_both_iterates(tmp_path):
    """If each iterate is pulled all the way back, the weights stay as they were."""
    pull = ("regularization=custom", "regularization.custom._target_=mine.PullBack", "precision=float64")
    experiment = build_blobs(*pull, "+regularization.custom.share=1.0")
    _, (run,) = train_runs(tmp_path, experiment)
    torch.testing.assert_close(load_weights(run), experiment.w.double(), rtol=0, atol=1e-15)


def test_a_regularization_that_mixes_targets_changes_only_training(tmp_path):
    """The training loss is of the changed targets, the losses of validation and test are of the classes."""
    experiment = build_blobs(
        "regularization=custom", "regularization.custom._target_=mine.SoftTargets", "precision=float64", "epochs=1",
        "batch_size=full", "averaging=custom", "averaging._target_=mine.RunningMean", "normalization=batch",
    )  # fmt: skip
    (summary,), (run,) = train_runs(tmp_path, experiment)
    problem = Problem(experiment.model.double(), experiment.loss)
    x, y = experiment.train.gather()
    objective = MiniBatchObjective(problem, x.double(), y, prng.key(0))
    objective.gradient(experiment.w)
    outputs = objective.first.outputs
    soft = 0.9 * torch.eye(3, dtype=torch.float64)[y] + 0.1 / 3
    expected = -(soft * outputs.log_softmax(1)).sum(1).mean()
    assert run.rows()[0]["train/loss"] == pytest.approx(expected.item(), rel=1e-12)
    assert run.rows()[0]["train/accuracy"] == pytest.approx((outputs.argmax(1) == y).double().mean().item())
    experiment.model.load_state_dict(run.load("last")["model"])
    experiment.model.eval()
    for split, name in ((experiment.validation, "val/loss"), (experiment.test, "test/loss")):
        inputs, targets = split.gather()
        plain = F.cross_entropy(experiment.model(inputs.double()), targets)
        assert summary[name] == pytest.approx(plain.item(), rel=1e-10)
    assert math.isfinite(summary["average/val/loss"])


def test_a_regularization_of_gradients_is_between_the_objective_and_the_optimizer(tmp_path):
    """Half of each gradient is half the learning rate; diagnostics receive the whole gradient."""
    watched = ("optimizer=momentum", "precision=float64", "diagnostic=gradients", "diagnostic.gradients.every=1")
    half = ("regularization=custom", "regularization.custom._target_=mine.HalfGradient", "optimizer.lr=0.1")
    _, (run,) = train_runs(tmp_path / "half", build_blobs(*watched, *half))
    _, (slow,) = train_runs(tmp_path / "slow", build_blobs(*watched, "optimizer.lr=0.05"))
    torch.testing.assert_close(load_weights(run), load_weights(slow), rtol=1e-13, atol=1e-15)
    for row, expected in zip(run.rows(), slow.rows(), strict=True):
        assert row["gradient/norm"] == pytest.approx(expected["gradient/norm"], rel=1e-12)


def test_a_regularization_of_gradients_receives_the_step(tmp_path):
    steps = []

    class Witness(Regularization):
        def gradient(self, g, key, step, layout):
            steps.append(step)
            return g

    for experiments in ([build_blobs()], [build_blobs(), build_blobs("seed=1")]):
        steps.clear()
        witnessed = [dataclasses.replace(e, regularization={"w": Witness()}) for e in experiments]
        train_runs(tmp_path / str(len(experiments)), *witnessed)
        assert steps == list(range(9))


def test_all_augmentations_receive_probabilities_if_one_mixes(tmp_path):
    """Those before the one that mixes too, and a batch of the whole split too."""
    targets_seen = []

    class Witness(Augmentation):
        def __call__(self, inputs, targets, key):
            targets_seen.append((tuple(targets.shape), targets.dtype))
            return inputs, targets

    for i, (overrides, expected) in enumerate((
        ((*MIX, "batch_size=48"), [((48, 3), torch.float32)]),
        ((*MIX, "batch_size=full"), [((48, 3), torch.float32)]),
        ((), [((16,), torch.int64)] * 3),
    )):  # fmt: skip
        targets_seen.clear()
        experiment = build_blobs(*overrides, "epochs=1")
        augmentation = {"witness": Witness(), **experiment.augmentation}
        train_runs(tmp_path / str(i), dataclasses.replace(experiment, augmentation=augmentation))
        assert targets_seen == expected


# ------------------------------------------------------------------------------------------- results


def test_a_diverged_run_is_a_result(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs("optimizer=sgd", "optimizer.lr=1e38"))
    assert summary["status"] == run.status["status"] == "diverged"
    assert "not finite" in run.status["message"]
    assert run.rows()[-1]["train/loss"] is None  # JSON has no NaN
    json.loads(run.summary_file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_last_metrics_are_of_the_last_evaluation_or_of_the_step_of_a_divergence(tmp_path):
    run = interrupt_run(tmp_path / "run", 5, build_blobs("log_every=1"))
    assert run.summary["last/step"] == 3
    assert run.summary["last/train/loss"] == run.summary["train/loss"] == run.rows()[2]["train/loss"]
    (summary,), (run,) = train_runs(tmp_path, build_blobs("optimizer=sgd", "optimizer.lr=1e38", "log_every=1"))
    assert (summary["status"], summary["last/step"]) == ("diverged", 2)
    assert "train/loss" not in summary
    assert run.rows()[-1]["recent/train/loss"] is None


def test_weights_that_are_not_finite_after_the_last_step_are_a_divergence(tmp_path):
    overrides = ("optimizer=sgd", "optimizer.lr=3e38", "regularization=l2", "regularization.l2.strength=100", "steps=1")
    (summary,), _ = train_runs(tmp_path, build_blobs(*overrides))
    assert summary["status"] == "diverged"


@pytest.mark.parametrize("often", [("checkpoint.every=1",), ("diagnostic=gradients", "diagnostic.gradients.every=1")])
def test_where_a_diverging_run_ends_does_not_depend_on_checkpoints_or_diagnostics(often, tmp_path):
    """It ends at one of its own rows, although a checkpoint or a diagnostic could end it earlier."""
    overrides = ("optimizer=sgd", "optimizer.lr=1e38", "epochs=4", "eval_every=2")
    (plain,), _ = train_runs(tmp_path / "plain", build_blobs(*overrides))
    (watched,), (run,) = train_runs(tmp_path / "watched", build_blobs(*overrides, *often))
    assert plain["status"] == watched["status"] == "diverged"
    assert plain["step"] == watched["step"] == 6
    if run.checkpoint("last").exists():
        assert torch.isfinite(load_weights(run)).all(), "a run cannot resume from weights that are not finite"


def test_best_weights_are_of_the_best_evaluation(tmp_path):
    """The summary's metrics are of the best row, and the best checkpoint's weights give its validation loss."""
    experiment = build_blobs("epochs=40", "optimizer.lr=0.3", "precision=float64", "data.label_noise=0.3")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    losses = [row["val/loss"] for row in run.rows()]
    best = losses.index(min(losses))
    assert best < 39, "the test needs a run that overfits"
    assert summary["val/loss"] == min(losses)
    assert summary["best/step"] == run.rows()[best]["step"]
    assert summary["last/val/loss"] == losses[-1]
    model = torch.nn.Sequential(*MLP["blobs"]()).double()
    for which, key in (("best", "val/loss"), ("last", "last/val/loss")):
        model.load_state_dict(dict(zip(model.state_dict(), run.load(which)["model"].values(), strict=True)))
        x, y = experiment.validation.gather()
        assert F.cross_entropy(model(x.double()), y).item() == pytest.approx(summary[key], rel=1e-12)


def test_without_validation_the_last_weights_count(tmp_path):
    keys = ("validation.fraction=0", "batch_size=60", "epochs=5", "optimizer=sgd", "optimizer.lr=1.5")
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*keys))
    losses = [row["train/loss"] for row in run.rows()]
    assert losses[-1] > min(losses), "otherwise the test shows nothing"
    assert not any(k.startswith("val/") for k in summary)
    assert summary["test/loss"] == summary["last/test/loss"]
    assert summary["best/step"] == summary["step"] == run.load("best")["step"] == 5
    assert torch.equal(load_weights(run, "best"), load_weights(run, "last"))


def test_bfloat16_trains_float32_weights(tmp_path):
    (summary,), (run,) = train_runs(
        tmp_path, build_blobs("precision=bfloat16", *RANDOM, "epochs=20", "optimizer.lr=0.02")
    )
    assert summary["status"] == "done"
    assert summary["test/accuracy"] > 0.6
    assert all(v.dtype == torch.float32 for v in run.load("last")["model"].values())


def test_a_checkpoint_loads_into_the_users_own_class(tmp_path):
    """Frozen, tied and trained weights are all there, and the network gives the test loss of the summary."""
    problem = [o for o in BLOBS if not o.startswith("arch")]
    own = ("arch=custom", "arch._target_=mine.FrozenNet", "optimizer.lr=0.05")
    experiment = build_experiment(*problem, *own)
    (summary,), (run,) = train_runs(tmp_path, experiment)
    model = mine.FrozenNet((4,), 3)
    model.load_state_dict(run.load("best")["model"])
    with torch.no_grad():
        test = F.cross_entropy(model(experiment.test.inputs), experiment.test.targets).item()
    assert summary["test/loss"] == pytest.approx(test, rel=1e-5)


def test_torchs_switches_are_restored(tmp_path):
    torch.set_num_threads(2)
    train_runs(tmp_path, build_blobs("threads=1", "epochs=1"))
    assert torch.get_num_threads() == 2


# ------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("overrides", "steps", "rows"),
    [
        (["steps=4"], 4, [3, 4]),
        (["epochs=4", "eval_every=2"], 12, [6, 12]),
        (["epochs=2", "log_every=2"], 6, [2, 3, 4, 6]),
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
    assert all(
        "recent/train/loss" in row or {"train/loss", "train/accuracy", "val/loss"} <= set(row) for row in run.rows()
    )
    assert "val/loss" in run.rows()[-1]


SCALED = (
    "optimizer=custom", "optimizer._target_=mine.ScaledStep", "+optimizer.share=0.5", "regularization=weight_decay",
    "+optimizer.base={_target_: dlopt.optimizer.momentum.HeavyBall, lr: 0.02, momentum: 0.9, dampening: 0.0}",
)  # fmt: skip


@pytest.mark.parametrize("overrides", [("optimizer.lr=0.02",), SCALED], ids=["its own", "of an optimizer inside it"])
def test_the_learning_rate_follows_its_schedule(overrides, tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(*overrides, "schedule=cosine", "log_every=1"))
    expected = [0.02 * (1 + math.cos(math.pi * t / 9)) / 2 for t in range(9)]
    assert [row["lr"] for row in run.rows()] == pytest.approx(expected)


@pytest.mark.parametrize("data", [(), ("data._target_=mine.Regression", "loss=mse")])
def test_an_epochs_row_does_not_depend_on_rows_within_it_or_on_checkpoints(data, tmp_path):
    plain, logged, saved = (
        read_rows(train_runs(tmp_path / str(i), build_blobs(*data, *more))[1][0])
        for i, more in enumerate(((), ("log_every=1",), ("checkpoint.every=2",)))
    )
    assert saved == plain
    evaluated = [row for row in logged if "val/loss" in row]
    assert [{k: v for k, v in row.items() if not k.startswith("recent/")} for row in evaluated] == plain


@pytest.mark.parametrize("buffered", [None, 40])
@pytest.mark.parametrize("overrides", [
    ("log_every=3", "epochs=4", "eval_every=2"),
    ("log_every=4", "epochs=2"),
    ("log_every=7", "steps=18"),
    ("log_every=1", "steps=3"),
    ("log_every=20", "steps=7"),
    ("epochs=4", "eval_every=2"),
])  # fmt: skip
def test_each_name_of_a_row_is_a_mean_over_the_same_steps_in_all_rows(overrides, buffered, tmp_path, monkeypatch):
    """train/loss: the epoch of the evaluation so far. recent/train/loss: the steps since the row of log_every before.

    The means are weighted by examples: each epoch has batches of 13, 13, 13 and 9.
    """
    losses = []

    class Watched(running_metrics.RunningMetrics):
        def add(self, evaluation, targets, result):
            losses.append(
                (evaluation.loss.item(), len(targets), evaluation.outputs.argmax(-1).eq(targets).sum().item())
            )
            super().add(evaluation, targets, result)

    monkeypatch.setattr(recorder, "RunningMetrics", Watched)
    if buffered is not None:
        monkeypatch.setattr(running_metrics, "MAX_BUFFERED", buffered)
    experiment = build_blobs("precision=float64", "batch_size=13", *overrides)
    _, (run,) = train_runs(tmp_path, experiment)
    every, steps, eval_every = experiment.settings.log_every, len(losses), experiment.settings.eval_every

    def mean(first, last):
        part = losses[first:last]
        count = sum(size for _, size, _ in part)
        return pytest.approx(sum(loss * size for loss, size, _ in part) / count), sum(n for *_, n in part) / count

    found = {
        name: {row["step"]: (row[f"{name}/loss"], pytest.approx(row[f"{name}/accuracy"]))
               for row in run.rows() if f"{name}/loss" in row}
        for name in ("train", "recent/train")
    }  # fmt: skip
    evaluations = [n for n in range(1, steps + 1) if n % (4 * eval_every) == 0 or n == steps]
    assert found["train"] == {n: mean(4 * ((n - 1) // 4), n) for n in evaluations}
    windows = range(every, steps + 1, every) if every else ()
    assert found["recent/train"] == {n: mean(n - every, n) for n in windows}


def test_more_outputs_than_are_buffered_give_the_same_means(tmp_path, monkeypatch):
    experiment = build_blobs("precision=float64", "batch_size=13", "log_every=2")
    _, (plain,) = train_runs(tmp_path / "plain", experiment)
    monkeypatch.setattr(running_metrics, "MAX_BUFFERED", 40)
    _, (folded,) = train_runs(tmp_path / "folded", experiment)
    for a, b in zip(read_rows(plain), read_rows(folded), strict=True):
        assert a == pytest.approx(b, rel=1e-12)

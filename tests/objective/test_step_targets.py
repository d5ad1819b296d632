"""Targets for each step of a sequence: losses, gradients and metrics are those of the steps without padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    assert_build_refused,
    build_experiment,
    list_options,
    load_weights,
    make_option,
    read_rows,
    train_runs,
)
from torch.testing import assert_close

from dlopt.base.splits import split_k_fold
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.prng import Key
from dlopt.training.batches import DataPlacement, Examples, to_probabilities
from dlopt.training.evaluation import evaluate
from dlopt.training.state import TrainState

N, T, C = 5, 6, 4
LENGTHS = [6, 1, 3, 4, 2]
STEPS = (
    *(o for o in BLOBS if not o.startswith(("arch", "data"))),
    "data=custom",
    "data._target_=mine.StepLabels",
    "arch=custom",
    "arch._target_=mine.StepNet",
    "precision=float64",
)
NUMBERS = ("+data.numbers=true", "loss=mse")


def draw_sequences(kind, padding):
    """Return outputs (N, T, C) and targets of sequences of different lengths."""
    outputs = torch.randn(N, T, C, dtype=torch.float64)
    targets = torch.randint(C, (N, T)) if kind == "classes" else torch.randn(N, T, C, dtype=torch.float64)
    if kind == "probabilities":
        targets = targets.softmax(-1)
    targets[torch.arange(T) >= torch.tensor(LENGTHS).unsqueeze(1)] = padding
    return outputs, targets


@pytest.mark.parametrize("name", [*list_options("loss"), "probabilities"])
def test_a_batch_has_the_loss_and_gradient_of_its_single_sequences(name):
    loss = make_option("loss", "cross_entropy" if name == "probabilities" else name)
    kind = name if name == "probabilities" else "classes" if loss.targets == "both" else loss.targets
    outputs, targets = draw_sequences(kind, -1 if kind == "classes" else math.nan)
    outputs.requires_grad_()
    value = loss.mean(outputs, targets)
    single = [loss(outputs[i, :n], targets[i, :n]) for i, n in enumerate(LENGTHS)]
    assert_close(value, torch.stack(single).mean())
    own, expected = (torch.autograd.grad(v, outputs, retain_graph=True)[0] for v in (value, torch.stack(single).mean()))
    assert_close(own, expected)
    assert torch.autograd.gradgradcheck(lambda o: loss.mean(o, targets), (outputs,))


def test_the_probabilities_of_a_step_without_a_class_are_unknown():
    targets = torch.tensor([[2, 0, -1]])
    probabilities = to_probabilities(targets, 3, torch.float32)
    assert probabilities[0, :2].tolist() == F.one_hot(targets[0, :2], 3).tolist()
    assert probabilities[0, 2].isnan().all()


def predict_steps(experiment):
    """Return a state of the untrained network with the training split on the device."""
    state = TrainState([experiment])
    examples = Examples([experiment.train], DataPlacement(torch.device("cpu"), torch.float64), lanes=False)
    return state, examples


@pytest.mark.parametrize("keys", [(), NUMBERS], ids=["classes", "numbers"])
def test_metrics_are_those_of_the_steps_with_a_target(keys):
    experiment = build_experiment(*STEPS, *keys)
    state, examples = predict_steps(experiment)
    x, y = examples.all()
    outputs = state.problem.predict(state.w, x)
    valid = ~y.isnan().squeeze(-1) if keys else y >= 0
    assert 0 < valid.sum() < valid.numel()
    metrics = evaluate(state.problem, state.w, examples)
    expected = experiment.loss.measure(outputs[valid], y[valid])
    assert_close({k: v for k, v in metrics.items() if k != "loss"}, expected)


@pytest.mark.parametrize("keys", [(), NUMBERS], ids=["classes", "numbers"])
def test_lanes_and_micro_batches_equal_solo_runs(keys, tmp_path):
    build = [build_experiment(*STEPS, *keys, f"seed={seed}", "normalization=layer") for seed in (0, 1)]
    together, lanes = train_runs(tmp_path / "lanes", *build)
    solo, (run,) = train_runs(tmp_path / "solo", build_experiment(*STEPS, *keys, "seed=1", "normalization=layer"))
    _, (parts,) = train_runs(
        tmp_path / "parts", build_experiment(*STEPS, *keys, "seed=1", "normalization=layer", "micro_batch_size=3")
    )
    for other in (lanes[1], parts):
        assert_close(load_weights(other), load_weights(run), rtol=1e-9, atol=1e-9)
        for row, expected in zip(read_rows(other), read_rows(run), strict=True):
            numbers = {k for k, v in expected.items() if isinstance(v, float) and "/" in k}
            assert {k: row[k] for k in numbers} == pytest.approx({k: expected[k] for k in numbers})
    assert solo[0]["status"] == together[1]["status"] == "done"
    assert read_rows(run)[-1]["train/loss"] < read_rows(run)[0]["train/loss"]


def test_products_with_the_hessian_and_the_gauss_newton_matrix_are_those_of_single_sequences():
    experiment = build_experiment(*STEPS)
    state, examples = predict_steps(experiment)
    x, y = (t[:6] for t in examples.all())
    v = torch.randn_like(state.w)

    def ask(method, x, y):
        objective = MiniBatchObjective(state.problem, x, y, Key(0, 0))
        return getattr(objective, method)(state.w, v)

    for method in ("hvp", "gauss_newton_product"):
        single = [ask(method, x[i : i + 1, :, :], y[i : i + 1]) for i in range(6)]
        assert_close(ask(method, x, y), torch.stack(single).mean(0))


def test_label_smoothing_and_the_class_prior_leave_out_the_padding(tmp_path):
    experiment = build_experiment(*STEPS, "regularization=label_smoothing", "bias_init=class_prior")
    labels = experiment.train.gather()[1]
    shares = labels[labels >= 0].bincount(minlength=3).double()
    bias = experiment.w[-3:]
    assert_close(bias.softmax(0), shares / shares.sum())
    (summary,), _ = train_runs(tmp_path, experiment)
    assert summary["status"] == "done"
    assert math.isfinite(summary["train/loss"])


def test_folds_of_sequences_are_not_stratified():
    train = build_experiment(*STEPS, "validation.fraction=0").train
    sizes = [len(split_k_fold(train, 4, i, Key(0, 0))[1]) for i in range(4)]
    assert sizes == [15] * 4


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        (("data.label_noise=0.1",), "data.label_noise", "the targets of this data are classes for each step"),
        (("+data.how=empty",), "data", "5 sequences have no step with a target"),
        (("+data.how=label",), "data", "labels must be 0 to 2, got -2"),
        (("loss=custom", "loss._target_=mine.Hinge"), "loss", "define its method `losses`"),
        (("optimizer=kfac",), "optimizer.fisher", "use optimizer.fisher=empirical"),
        (("arch._target_=mine.NormDropoutNet",), "arch", "this data has a target for each step"),
    ],
)
def test_what_does_not_fit_steps_is_refused(keys, key, words):
    assert_build_refused(lambda: build_experiment(*STEPS, *keys), key, words)

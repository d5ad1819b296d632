"""Micro-batches: against the whole batch, against each part by itself, and in whole runs, in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    DEVICE,
    assert_build_refused,
    build_blobs,
    build_experiment,
    list_options,
    load_weights,
    read_rows,
    train_runs,
)
from objectives import (
    CLASSES,
    KEYS,
    LANE_KEY,
    InputNoise,
    KeepWeights,
    ShiftedTargets,
    StretchedGradient,
    WeightNoise,
    draw_data,
    make_problem,
)

from dlopt import prng
from dlopt.objective.bound import PART_KEYS
from dlopt.objective.micro_batches import split_batch
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.regularization.dropout import Dropout
from dlopt.regularization.l2 import L2
from dlopt.training.batches import DataPlacement, Examples
from dlopt.training.evaluation import evaluate, recompute_statistics
from dlopt.training.state import TrainState

FUNCTIONS = {
    "plain": (),
    "penalty": (L2(0.3),),
    "functional": (KeepWeights(), L2(0.3)),
    "noise of weights": (WeightNoise(0.3),),
    "targets": (ShiftedTargets(0.25),),
    "noise of gradients": (L2(0.3), StretchedGradient(2.0)),
}


def make_objectives(rules, size, lanes=None, arch="mlp", **keys):
    """Return the objectives of one batch, whole and in micro-batches, and weights."""
    objectives = []
    for micro_batch_size in (None, size):
        problem, w = make_problem(arch, rules=rules, lanes=lanes, micro_batch_size=micro_batch_size, **keys)
        x, y = draw_data(arch, lanes)
        if any(isinstance(rule, ShiftedTargets) for rule in rules):
            y = F.one_hot(y, CLASSES).double()
        objectives.append((MiniBatchObjective(problem, x, y, LANE_KEY if lanes else KEYS[1], 2), w))
    return objectives


@pytest.mark.parametrize(("examples", "size", "sizes"), [
    (8, None, [8]), (8, 8, [8]), (8, 9, [8]), (8, 4, [4, 4]), (8, 5, [4, 4]), (8, 3, [3, 3, 2]), (7, 3, [3, 2, 2]),
    (3, 1, [1, 1, 1]),
])  # fmt: skip
@pytest.mark.parametrize("dim", [0, 1])
def test_a_batch_is_split_into_the_fewest_parts_of_nearly_equal_sizes(examples, size, sizes, dim):
    x = torch.arange(2.0 * examples).reshape(2, examples) if dim else torch.arange(1.0 * examples)
    parts = split_batch(x, x, size, dim)
    assert [part.targets.shape[dim] for part in parts] == sizes
    assert torch.equal(torch.cat([part.inputs for part in parts], dim), x)
    assert [part.share for part in parts] == [(i, n / examples) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("size", [1, 3, 4, 8])
@pytest.mark.parametrize("lanes", [None, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_objective_is_that_of_the_whole_batch(name, lanes, size):
    (whole, w), (parts, v) = make_objectives(FUNCTIONS[name], size, lanes)
    direction = torch.linspace(-1, 1, w.numel(), dtype=torch.float64).reshape(w.shape)
    for objective, at in ((whole, w), (parts, v)):
        loss, g = objective.gradient(at)
        objective.results = (
            loss, g, objective.raw_gradient(g), objective.value(at), objective.gradient(at * 0.9), objective.hvp(at, direction),
            objective.hessian(at), objective.activations(at), objective.first, objective.gauss_newton_product(at, direction),
        )  # fmt: skip
    torch.testing.assert_close(parts.results, whole.results, rtol=1e-12, atol=1e-13)
    assert parts.problem.evaluations == whole.problem.evaluations == 6 + w.shape[-1]


@pytest.mark.parametrize("lanes", [None, 3])
def test_no_forward_pass_takes_more_examples(lanes):
    _, (objective, w) = make_objectives((), 3, lanes, arch="cnn")
    sizes = []
    objective.problem.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    objective.gradient(w)
    objective.hvp(w, w)
    objective.gauss_newton_product(w, w)
    assert sizes == [3, 3, 2] * 3


@pytest.mark.parametrize("rule", [Dropout(0.4, 0.0, "train"), InputNoise(0.5)])
def test_each_part_has_masks_of_its_own_which_are_the_same_at_each_evaluation(rule):
    _, (objective, w) = make_objectives((rule,), 4)
    loss, g = objective.gradient(w)
    assert torch.equal(objective.gradient(w)[1], g)
    assert torch.equal(objective.value(w), loss)
    problem, at = make_problem(rules=(rule,))
    x, y = draw_data()
    parts = [
        MiniBatchObjective(problem, x[:4], y[:4], KEYS[1], 2).gradient(at),
        MiniBatchObjective(problem, x[4:], y[4:], prng.fold_in(KEYS[1], PART_KEYS + 1), 2).gradient(at),
    ]
    torch.testing.assert_close((loss, g), tuple((a + b) / 2 for a, b in zip(*parts, strict=True)))


@pytest.mark.parametrize("lanes", [None, 3])
def test_batch_normalization_normalizes_each_part_and_stores_means_of_their_statistics(lanes):
    _, (objective, w) = make_objectives((), 3, lanes, batch_norm=True)
    x, y = draw_data("mlp", lanes)
    singles, at = make_problem(batch_norm=True, lanes=lanes)
    key = LANE_KEY if lanes else KEYS[1]
    pieces = [(a, b, a.shape[-2]) for a, b in zip(x.split([3, 3, 2], -2), y.split([3, 3, 2], -1), strict=True)]
    loss, expected = 0.0, {}
    for inputs, targets, count in pieces:
        part = MiniBatchObjective(singles, inputs, targets, key)
        loss = loss + part.value(at) * count / 8
        for name, value in part.first.statistics.items():
            expected[name] = expected.get(name, 0.0) + value * count / 8
    torch.testing.assert_close(objective.value(w), loss)
    torch.testing.assert_close(objective.first.statistics, expected)
    before = {name: b.clone() for name, b in objective.problem.running.items()}
    objective.problem.update_running_stats(objective.first.statistics)
    for name, b in objective.problem.running.items():
        torch.testing.assert_close(b, 0.9 * before[name] + 0.1 * expected[name])


# ------------------------------------------------------------------------------------------- runs

COMMON = ("precision=float64", "batch_size=13", "log_every=1")
RUNS = {
    "sgd": ("optimizer=sgd",),
    "adam": ("optimizer=adam", "clip.norm=0.1", "averaging=ema"),
    "soap": ("optimizer=soap",),
    "sam": ("optimizer=sam",),
    "L-BFGS": ("optimizer=torch_optim", "optimizer.name=LBFGS", "optimizer.lr=0.1"),
    "mixed targets": ("+data.shape=[1,6,6]", "augmentation=cowmix"),
    **{loss: ("data._target_=mine.Regression", f"loss={loss}") for loss in ("mse", "huber", "l1")},
    "nll": ("arch=custom", "arch._target_=mine.LogProbabilities", "loss=nll"),
    **{loss: (f"loss={loss}",) for loss in list_options("loss") if loss not in ("mse", "nll", "output", "huber", "l1")},
    "class weights": ("loss.class_weights=[1,3,2]",),
    **{diagnostic: (f"diagnostic={diagnostic}",) for diagnostic in list_options("diagnostic")},
    **{
        rule: (f"regularization={rule}", "optimizer=sgd")
        for rule in list_options("regularization")
        if rule not in ("dropout", "input_noise", "spatial_dropout", "stochastic_depth")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_up_to_rounding(name, tmp_path):
    """Four steps an epoch, of 13, 13, 13 and 9 examples, in parts of 5, 4 and 4, or 5 and 4."""
    problem = [o for o in BLOBS if not ("arch=custom" in RUNS[name] and o.startswith("arch"))]
    plain, split = (
        train_runs(tmp_path / str(size), build_experiment(*problem, *COMMON, *RUNS[name], f"micro_batch_size={size}"))
        for size in ("null", 5)
    )
    (summary,), (run,) = split
    assert load_weights(run).tolist() == pytest.approx(load_weights(plain[1][0]).tolist(), rel=1e-6, abs=1e-9)
    for row, expected in zip(read_rows(run), read_rows(plain[1][0]), strict=True):
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert summary["evaluations"] == plain[0][0]["evaluations"]


def test_evaluations_take_no_more_examples_at_once():
    experiment = build_blobs("micro_batch_size=5", "normalization=batch")
    problem = TrainState([experiment]).problem
    sizes = []
    problem.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    examples = Examples([experiment.train], DataPlacement.of(torch.device(DEVICE), torch.float32, []), lanes=False)
    evaluate(problem, problem.bound_w, examples)
    recompute_statistics(problem, problem.bound_w, examples)
    assert sizes == ([5] * 9 + [3]) * 2


@pytest.mark.parametrize("rules", ["dropout", "input_noise", "[dropout,input_noise,weight_noise,gradient_noise]"])
def test_lanes_equal_runs_of_their_own(rules, tmp_path):
    experiments = [
        build_blobs(*COMMON, f"regularization={rules}", "normalization=batch", "micro_batch_size=4", f"seed={seed}")
        for seed in range(2)
    ]
    _, lanes = train_runs(tmp_path / "lanes", *experiments)
    for i, experiment in enumerate(experiments):
        _, (run,) = train_runs(tmp_path / str(i), experiment)
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run))


@pytest.mark.parametrize(("overrides", "words"), [
    (["micro_batch_size=17"], "at most batch_size (16)"),
    (["batch_size=full", "micro_batch_size=49"], "at most batch_size (48)"),
    (["micro_batch_size=0"], ">= 1 or null, got 0"),
    (["micro_batch_size=1", "normalization=batch"], "one example of 16, in which hidden.1"),
    (["batch_size=9", "micro_batch_size=2", "normalization=batch"], "one example of 3, in which hidden.1"),
    (["batch_size=15", "micro_batch_size=2", "normalization=batch"], "one example of 3, in which hidden.1"),
])  # fmt: skip
def test_a_size_that_cannot_work_is_refused(overrides, words):
    assert_build_refused(lambda: build_blobs(*overrides), "micro_batch_size", words)


def test_a_loss_that_is_not_a_mean_over_examples_is_refused():
    custom = ("loss=custom", "loss._target_=mine.SumLoss")
    assert_build_refused(lambda: build_blobs(*custom, "micro_batch_size=4"), "loss", "mean over the examples")
    assert build_blobs(*custom)


@pytest.mark.parametrize("overrides", [["micro_batch_size=16"], ["batch_size=full", "micro_batch_size=48"]])
def test_the_size_of_the_batch_is_allowed(overrides):
    assert build_blobs(*overrides, "normalization=batch")

"""Properties of every regularization: the parameters that it changes, its numbers, and lanes."""

import pytest
import torch
from helpers import BLOBS, build_blobs, build_experiment, list_options, load_weights, train_runs
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.objective.problem import Problem

NET = nn.Sequential(nn.Conv1d(2, 4, 3), BatchNorm(4), nn.Flatten(), nn.Linear(12, 3), nn.LayerNorm(3)).double()
LAYOUT = Layout.of(NET)
OTHERS = LAYOUT.mask("bias", "norm").bool()
KEYS = [prng.key(0, "regularization", step) for step in range(3)]

NUMBERS = {
    "dropconnect": {"p": (0.3, 0.6)},
    "dropout": {"p": (0.3, 0.6), "input": (0.1, 0.0)},
    "elastic_net": {"l1": (0.1, 0.5), "l2": (0.3, 0.0)},
    "gradient_noise": {"eta": (0.01, 0.3), "gamma": (0.55, 0.0)},
    "input_noise": {"std": (0.1, 0.0)},
    "l1": {"strength": (0.1, 0.5)},
    "l2": {"strength": (0.1, 2.0)},
    "label_smoothing": {"strength": (0.1, 0.0)},
    "max_norm": {"limit": (0.1, 0.5)},
    "spatial_dropout": {"p": (0.3, 0.6)},
    "stochastic_depth": {"p": (0.3, 0.6)},
    "weight_decay": {"strength": (0.5, 3.0)},
    "weight_noise": {"std": (0.1, 0.0)},
}
"""The numbers of each option, with two values each."""
RESIDUAL = [
    *(o for o in BLOBS if not o.startswith("arch")),
    *("arch=resnet", "arch.channels=[3,4]", "arch.blocks=1", "+data.shape=[1,8]"),
]
OVERRIDES = {name: (name, []) for name in NUMBERS} | {
    f"{name}, proximal": (name, [f"regularization.{name}.proximal=true"]) for name in ("l1", "elastic_net")
}


def make_part(name, *overrides):
    (part,) = build_blobs(f"regularization={name}", *overrides).regularization.values()
    return part


def test_every_option_is_here():
    assert set(NUMBERS) == set(list_options("regularization")) - {"none", "early_stopping"}


@pytest.mark.parametrize("case", OVERRIDES)
def test_lanes_with_numbers_of_their_own_equal_runs_alone_and_every_number_counts(case, tmp_path):
    """The first lane has the first value of each number; each other lane has another value of one of them."""
    name, more = OVERRIDES[case]
    values = {key: pair[0] for key, pair in NUMBERS[name].items()}
    variants = [values, *(values | {key: pair[1]} for key, pair in NUMBERS[name].items())]
    common = (
        "precision=float64",
        f"regularization={name}",
        "optimizer=momentum",
        "normalization=batch",
        "epochs=1",
        *more,
    )
    problem = RESIDUAL if name == "stochastic_depth" else BLOBS
    runs = [
        build_experiment(*problem, *common, *(f"regularization.{name}.{k}={v}" for k, v in own.items()))
        for own in variants
    ]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", runs[i])
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)
        for mine, other in zip(lane.rows(), alone.rows(), strict=True):
            for metric in ("train/loss", "val/loss"):
                assert mine[metric] == pytest.approx(other[metric], rel=1e-9)
        assert i == 0 or not torch.allclose(load_weights(lane), load_weights(lanes[0]), rtol=1e-6, atol=1e-8)


def test_all_of_them_together_keep_single_precision(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(f"regularization=[{','.join(NUMBERS)}]", "epochs=1"))
    assert {v.dtype for v in run.load("last")["model"].values()} == {torch.float32}


@pytest.mark.parametrize("name", ["dropconnect", "weight_noise"])
def test_changes_of_weights_leave_biases_and_normalizations_unchanged(name):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    changed = make_part(name).weights(w, KEYS[0], LAYOUT)
    assert torch.equal(changed[OTHERS], w[OTHERS])
    assert (changed[~OTHERS] != w[~OTHERS]).double().mean() > 0.9


@pytest.mark.parametrize("name", ["l1", "l2", "elastic_net"])
def test_penalties_have_no_gradient_with_respect_to_biases_and_normalizations(name):
    w = torch.randn(LAYOUT.size, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(make_part(name).penalty(w, LAYOUT), w)
    assert (g[OTHERS] == 0).all()
    assert g[~OTHERS].all()


@pytest.mark.parametrize("case", ["l1, proximal", "elastic_net, proximal", "weight_decay", "max_norm"])
def test_shrinking_after_a_step_leaves_biases_and_normalizations_unchanged(case):
    w = 10 * torch.randn(LAYOUT.size, dtype=torch.float64)
    name, more = OVERRIDES[case]
    shrunk = make_part(name, *more).after(w.clone(), w, 0.1, LAYOUT)
    assert torch.equal(shrunk[OTHERS], w[OTHERS])
    assert (shrunk[~OTHERS].abs() < w[~OTHERS].abs()).all()


INPUTS = {name: ["regularization.dropout.input=0.2"] if name == "dropout" else [] for name in NUMBERS}


@pytest.mark.parametrize("name", ["dropconnect", "weight_noise", "input_noise", "dropout", "gradient_noise"])
def test_draws_are_one_for_a_step_and_others_at_the_next(name):
    """All evaluations of a step see the same function; a repeated step sees the same one."""
    rule = make_part(name, *INPUTS[name])
    x, w = torch.randn(3, 50, dtype=torch.float64), torch.randn(LAYOUT.size, dtype=torch.float64)

    def draw(key):
        parts = (rule.inputs(x, key), rule.weights(w, key, LAYOUT), rule.gradient(w, key, 0, LAYOUT))
        return torch.cat([part.flatten() for part in parts])

    first, second, third = map(draw, KEYS)
    assert torch.equal(draw(KEYS[0]), first)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


@pytest.mark.parametrize("name", NUMBERS)
def test_evaluation_is_that_of_the_network_without_it(name):
    experiment = build_blobs(f"regularization={name}", "precision=float64", *INPUTS[name])
    rules = tuple(experiment.regularization.values())
    plain = build_blobs("precision=float64")
    one, other = Problem(experiment.model.double(), experiment.loss, rules), Problem(plain.model.double(), plain.loss)
    x, y = experiment.test.inputs.double(), experiment.test.targets
    w = torch.randn(one.layout.size, dtype=torch.float64)
    outputs = one.predict(w, x)
    assert torch.equal(outputs, other.predict(w, x))
    assert torch.equal(one.losses(outputs, y), other.losses(outputs, y))

"""What holds for every regularization: which parameters it leaves alone, and lanes with numbers of their own."""

import pytest
import torch
from helpers import build_blobs, list_options, load_weights, train_runs
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
    "dropconnect": {"p": (0.0, 0.3, 0.6)},
    "dropout": {"p": (0.0, 0.3, 0.6), "input": (0.0, 0.1, 0.4)},
    "elastic_net": {"l1": (0.0, 0.1, 0.5), "l2": (0.3, 0.0, 2.0)},
    "gradient_noise": {"eta": (0.0, 0.01, 0.3), "gamma": (0.0, 0.55, 1.0)},
    "input_noise": {"std": (0.0, 0.1, 1.0)},
    "l1": {"strength": (0.0, 0.1, 0.5)},
    "l2": {"strength": (0.0, 0.1, 2.0)},
    "label_smoothing": {"strength": (0.0, 0.1, 0.5)},
    "max_norm": {"limit": (0.1, 0.5, 9.0)},
    "weight_decay": {"strength": (0.0, 0.5, 3.0)},
    "weight_noise": {"std": (0.0, 0.1, 0.5)},
}
"""Of every option with numbers in its formula, some for runs in lanes."""


def part(name, *overridden):
    (found,) = build_blobs(f"regularization={name}", *overridden).regularization.values()
    return found


def test_every_option_is_here():
    assert set(NUMBERS) == set(list_options("regularization")) - {"none", "early_stopping"}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", NUMBERS)
def test_lanes_with_numbers_of_their_own_equal_runs_alone(name, precision, tmp_path):
    own = [
        (f"precision={precision}", f"regularization={name}", f"seed={i}", "optimizer=momentum", "normalization=batch",
         *(f"regularization.{name}.{key}={values[i]}" for key, values in NUMBERS[name].items()))
        for i in range(3)
    ]  # fmt: skip
    bound = 1e-9 if precision == "float64" else 1e-3
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*o) for o in own))
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", build_blobs(*own[i]))
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=bound, atol=bound)
        assert {v.dtype for v in lane.load("last")["model"].values()} == {getattr(torch, precision)}
        for mine, other in zip(lane.rows(), alone.rows(), strict=True):
            for metric in ("train/loss", "val/loss"):
                assert mine[metric] == pytest.approx(other[metric], rel=bound)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_changes_what_is_trained(name, tmp_path):
    """Each of an option's numbers, so that none is read and forgotten."""
    for key, values in NUMBERS[name].items():
        found = []
        for value in (values[1] or values[0], values[2]):
            changed = build_blobs(f"regularization={name}", f"regularization.{name}.{key}={value}", "epochs=1")
            found.append(load_weights(train_runs(tmp_path / f"{key}{value}", changed)[1][0]))
        assert not torch.equal(*found), key


@pytest.mark.parametrize("name", ["dropconnect", "weight_noise"])
def test_what_changes_weights_leaves_biases_and_normalizations_alone(name):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    changed = part(name).weights(w, KEYS[0], LAYOUT)
    assert torch.equal(changed[OTHERS], w[OTHERS])
    assert (changed[~OTHERS] != w[~OTHERS]).double().mean() > 0.9


@pytest.mark.parametrize("name", ["l1", "l2", "elastic_net"])
def test_penalties_have_no_gradient_with_respect_to_biases_and_normalizations(name):
    w = torch.randn(LAYOUT.size, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(part(name).penalty(w, LAYOUT), w)
    assert (g[OTHERS] == 0).all()
    assert g[~OTHERS].all()


@pytest.mark.parametrize("name", ["l1", "elastic_net", "weight_decay", "max_norm"])
def test_what_shrinks_weights_after_a_step_leaves_biases_and_normalizations_alone(name):
    w = 10 * torch.randn(LAYOUT.size, dtype=torch.float64)
    proximal = [f"regularization.{name}.proximal=true"] if name in ("l1", "elastic_net") else []
    shrunk = part(name, *proximal).after(w.clone(), w, 0.1, LAYOUT)
    assert torch.equal(shrunk[OTHERS], w[OTHERS])
    assert (shrunk[~OTHERS].abs() < w[~OTHERS].abs()).all()


INPUTS = {name: ["regularization.dropout.input=0.2"] if name == "dropout" else [] for name in NUMBERS}


@pytest.mark.parametrize("name", ["dropconnect", "weight_noise", "input_noise", "dropout", "gradient_noise"])
def test_draws_are_one_for_a_step_and_others_at_the_next(name):
    """Of a step all evaluations see the same function; of the same step again, the same."""
    rule = part(name, *INPUTS[name])
    x, w = torch.randn(3, 50, dtype=torch.float64), torch.randn(LAYOUT.size, dtype=torch.float64)

    def draw(key):
        found = (rule.inputs(x, key), rule.weights(w, key, LAYOUT), rule.gradient(w, key, 0, LAYOUT))
        return torch.cat([one.flatten() for one in found])

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

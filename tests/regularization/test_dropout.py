"""Dropout: masks, factors, and inference."""

import math

import pytest
import torch
from helpers import build_blobs

from dlopt import prng
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import StochasticSite
from dlopt.regularization.dropout import Dropout

KEY = prng.key(0, "dropout")


def make_site(p, site=0, key=KEY, scale="train"):
    module = Dropout(p, 0.0, scale).module(site)
    module.set_key(key)
    return module


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9])
def test_a_fraction_p_of_units_is_zero_and_others_are_divided_by_the_probability_of_keeping(p):
    n = 200_000
    for step in range(2):
        x = 1 + torch.rand(n, dtype=torch.float64)
        y = make_site(p, key=prng.fold_in(KEY, step))(x)
        alive = y != 0
        torch.testing.assert_close(y[alive], x[alive] / (1 - p))
        assert abs((~alive).double().mean() - p) <= 4 * math.sqrt(p * (1 - p) / n)


def test_inference_uses_all_units_unchanged():
    x = torch.randn(5, 4)
    assert torch.equal(make_site(0.9).eval()(x), x)


def test_the_same_key_drops_the_same_units_and_another_key_others():
    x = torch.randn(100, 10)
    assert torch.equal(make_site(0.5)(x), make_site(0.5)(x))
    assert not torch.equal(make_site(0.5)(x), make_site(0.5, key=prng.fold_in(KEY, 1))(x))


def test_a_module_that_is_used_twice_in_one_evaluation_draws_twice():
    x = torch.randn(100, 10)
    module = make_site(0.5)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    module.set_key(KEY)
    assert torch.equal(module(x), first)


def test_units_are_dropped_independently_across_examples_and_units():
    dropped = (make_site(0.5)(torch.ones(500, 400)) == 0).double() - 0.5
    n = dropped.numel()
    for shifted in (dropped.roll(1, 0), dropped.roll(1, 1)):
        assert abs((dropped * shifted).mean() * 4) < 4 / math.sqrt(n)


def test_an_infinite_activation_can_be_dropped():
    x = torch.full((100,), torch.inf)
    y = make_site(0.5)(x)
    assert not y.isnan().any()
    assert (y == 0).any()


def test_the_gradient_passes_through_the_kept_units_only():
    x = torch.randn(200, dtype=torch.float64, requires_grad=True)
    y = make_site(0.5)(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, (y != 0).double() * 2)


def test_each_site_gets_a_module_with_its_rule_and_number():
    rule = Dropout(0.5, 0.0, "train")
    sites = [rule.module(i) for i in range(3)]
    assert all(isinstance(s, StochasticSite) and s.regularization is rule and s.index == i for i, s in enumerate(sites))


# ------------------------------------------------------------------------------------------- scale=test


def test_scaled_at_test_time_a_unit_is_zero_or_as_it_is_and_inference_multiplies_by_the_probability_of_keeping():
    x = torch.randn(50, 40, dtype=torch.float64)
    train, test = make_site(0.3), make_site(0.3, scale="test")
    torch.testing.assert_close(test(x), 0.7 * train(x))
    torch.testing.assert_close(test.eval()(x), 0.7 * x)


@pytest.mark.parametrize(("p", "input"), [(0.5, 0.2), (0.0, 0.3)])
def test_both_scales_are_one_family_of_functions(p, input):
    """With weights times 1 - p after each dropout, outputs are equal in training and in inference."""
    keep = {"hidden.0.weight": 1 - input, "hidden.3.weight": 1 - p, "output.weight": 1 - p}
    predicted, trained = [], []
    for scale in ("test", "train"):
        experiment = build_blobs(
            "precision=float64", "arch.widths=[6,5]", "regularization=dropout", f"regularization.dropout.p={p}",
            f"regularization.dropout.input={input}", f"regularization.dropout.scale={scale}",
        )  # fmt: skip
        rules = tuple(experiment.regularization.values())
        problem = Problem(experiment.model.double(), experiment.loss, rules)
        x, y = experiment.train.inputs.double(), experiment.train.targets
        w = experiment.w.clone()
        for name, piece in problem.layout.views(w).items():
            piece.mul_(keep.get(name, 1.0) if scale == "train" else 1.0)
        objective = MiniBatchObjective(problem, x, y, KEY)
        objective.value(w)
        predicted.append(problem.predict(w, x))
        trained.append(objective.first.outputs)
    torch.testing.assert_close(predicted[0], predicted[1])
    torch.testing.assert_close(trained[0], trained[1])
    assert not torch.allclose(trained[0], predicted[0])


# ------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("scale", ["train", "test"])
def test_inputs_are_dropped_with_a_probability_of_their_own(scale):
    x = torch.randn(500, 40, dtype=torch.float64)
    rule = Dropout(0.9, 0.2, scale)
    y = rule.inputs(x, KEY)
    alive = y != 0
    torch.testing.assert_close(y[alive], x[alive] / (0.8 if scale == "train" else 1.0))
    assert abs(alive.double().mean() - 0.8) < 4 * math.sqrt(0.16 / x.numel())
    assert torch.equal(rule.inference(x), x if scale == "train" else 0.8 * x)
    assert torch.equal(rule.inputs(x, KEY), y)
    assert not torch.equal(rule.inputs(x, prng.fold_in(KEY, 1)), y)


@pytest.mark.parametrize("scale", ["train", "test"])
def test_inputs_in_inference_are_the_mean_of_inputs_in_training(scale):
    rule, x, n = Dropout(0.5, 0.3, scale), torch.linspace(-3, 3, 7, dtype=torch.float64), 20_000
    mean = rule.inputs(x.expand(n, 7), KEY).mean(0)
    size = x.abs() * math.sqrt(0.3 * 0.7) / (0.7 if scale == "train" else 1.0)
    assert ((mean - rule.inference(x)).abs() <= 4 * size / math.sqrt(n)).all()


@pytest.mark.parametrize("scale", ["train", "test"])
def test_integer_inputs_are_unchanged(scale):
    tokens = torch.arange(12).view(3, 4)
    rule = Dropout(0.5, 0.0, scale)
    assert rule.inputs(tokens, KEY) is tokens
    assert rule.inference(tokens) is tokens


def test_dropped_inputs_leave_the_padding_of_series():
    rule, x = Dropout(0.0, 0.5, "train"), torch.ones(40, 2, 8)
    x[:, :, 5:] = torch.nan
    y = rule.inputs(x, prng.key(0))
    assert torch.equal(y.isnan(), x.isnan())
    assert set(y[..., :5].unique().tolist()) == {0.0, 2.0}

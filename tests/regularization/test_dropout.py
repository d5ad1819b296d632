"""Dropout: which units, how many, and with what factor."""

import math

import pytest
import torch

from dlopt import streams
from dlopt.parts import Site
from dlopt.regularization.dropout import Dropout

KEY = streams.key(0, "dropout")


def mask(p, site=0, key=KEY):
    module = Dropout(p).module(site)
    module.arm(key)
    return module


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_unit_is_zero_or_divided_by_the_probability_of_keeping(p):
    x = torch.randn(50, 40, dtype=torch.float64)
    y = mask(p)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - p))
    assert 0 < kept.sum() < kept.numel()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_units_is_p_and_the_mean_is_kept(p):
    n = 200_000
    for step in range(3):
        y = mask(p, key=streams.fold(KEY, step))(torch.ones(n, dtype=torch.float64))
        assert abs((y == 0).double().mean() - p) < 4 * math.sqrt(p * (1 - p) / n)
        assert abs(y.mean() - 1) < 4 * math.sqrt(p / (1 - p) / n)


def test_inference_uses_all_units_as_they_are():
    x = torch.randn(5, 4)
    assert torch.equal(mask(0.9).eval()(x), x)


def test_p_zero_drops_nothing():
    x = torch.randn(500, 40)
    assert torch.equal(mask(0.0)(x), x)


def test_the_same_key_drops_the_same_units_and_another_key_others():
    x = torch.randn(100, 10)
    assert torch.equal(mask(0.5)(x), mask(0.5)(x))
    assert not torch.equal(mask(0.5)(x), mask(0.5, key=streams.fold(KEY, 1))(x))


def test_a_module_that_is_used_twice_in_one_evaluation_draws_twice():
    x = torch.randn(100, 10)
    module = mask(0.5)
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    module.arm(KEY)
    assert torch.equal(module(x), first)


def test_units_are_dropped_independently_across_examples_and_units():
    dropped = (mask(0.5)(torch.ones(500, 400)) == 0).double() - 0.5
    n = dropped.numel()
    for shifted in (dropped.roll(1, 0), dropped.roll(1, 1)):
        assert abs((dropped * shifted).mean() * 4) < 4 / math.sqrt(n)


def test_an_infinite_activation_that_is_dropped_is_gone():
    x = torch.full((100,), torch.inf)
    y = mask(0.5)(x)
    assert not y.isnan().any()
    assert (y == 0).any()


def test_the_gradient_passes_through_the_kept_units_alone():
    x = torch.randn(200, dtype=torch.float64, requires_grad=True)
    y = mask(0.5)(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, (y != 0).double() * 2)


def test_dropping_a_unit_needs_no_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mask(0.5)(torch.ones(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_place_gets_a_module_that_knows_its_rule_and_number():
    rule = Dropout(0.5)
    sites = [rule.module(i) for i in range(3)]
    assert all(isinstance(s, Site) and s.rule is rule and s.site == i for i, s in enumerate(sites))

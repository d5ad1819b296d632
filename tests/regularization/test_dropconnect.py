"""DropConnect: which weights, how many, with what factor, and what gradient is left."""

import math

import pytest
import torch
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.bound import WEIGHT_KEYS
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.dropconnect import DropConnect

LAYOUT = Layout.of(nn.Linear(50, 40))
WEIGHTS = LAYOUT.mask("weight").bool()
KEY = prng.key(0, "dropconnect")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_weight_is_zero_or_divided_by_the_probability_of_keeping(p):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    left = DropConnect(p).weights(w, KEY, LAYOUT)[WEIGHTS]
    kept = left != 0
    torch.testing.assert_close(left[kept], w[WEIGHTS][kept] / (1 - p))
    assert abs(kept.double().mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / len(kept))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_its_mean_over_steps_is_the_weight_that_inference_uses(p):
    n = 3000
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    total = torch.zeros_like(w)
    for step in range(n):
        total += DropConnect(p).weights(w, prng.fold_in(KEY, step), LAYOUT)
    error = (total / n - w)[WEIGHTS] / (w.abs()[WEIGHTS] * math.sqrt(p / (1 - p) / n))
    assert abs(error.mean()) < 4 / math.sqrt(len(error))
    assert error.abs().max() < 5
    assert error.square().mean() == pytest.approx(1, abs=0.15)


def test_p_zero_drops_nothing():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    assert torch.equal(DropConnect(0.0).weights(w, KEY, LAYOUT), w)


def test_the_gradient_is_that_at_the_weights_left_and_none_for_those_dropped():
    rule, model = DropConnect(0.4), nn.Linear(50, 3).double()
    problem, plain = Problem(model, CrossEntropy([]), (rule,)), Problem(nn.Linear(50, 3).double(), CrossEntropy([]))
    x, y = torch.randn(8, 50, dtype=torch.float64), torch.arange(8) % 3
    w = torch.randn(problem.layout.size, dtype=torch.float64)
    left = rule.weights(w, prng.fold_in(KEY, WEIGHT_KEYS), problem.layout)
    loss, g = MiniBatchObjective(plain, x, y, KEY).gradient(left)
    weights = problem.layout.mask("weight").bool()
    expected = torch.where(weights, torch.where(left == 0, 0.0, g / 0.6), g)
    torch.testing.assert_close(MiniBatchObjective(problem, x, y, KEY).gradient(w), (loss, expected))
    assert (expected[weights] == 0).any()

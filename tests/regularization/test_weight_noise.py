"""Noise on weights: its size, and the curvature that it punishes."""

import math

import pytest
import torch
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.regularization.weight_noise import WeightNoise

LAYOUT = Layout.of(nn.Linear(100, 40))
WEIGHTS = LAYOUT.mask("weight").bool()
KEY = prng.key(0, "weight noise")


@pytest.mark.parametrize("std", [0.0, 0.05, 2.0])
def test_its_mean_is_zero_and_its_standard_deviation_is_std(std):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    noise = (WeightNoise(std).weights(w, KEY, LAYOUT) - w)[WEIGHTS]
    assert abs(noise.mean()) <= 4 * std / math.sqrt(len(noise))
    assert noise.square().mean().item() == pytest.approx(std**2, rel=4 * math.sqrt(2 / len(noise)), abs=1e-30)


def test_on_average_a_quadratic_grows_by_half_the_variance_times_the_trace_of_its_hessian():
    """E f(w + s n) = f(w) + (s^2 / 2) tr H, exactly."""
    h = torch.linspace(0.5, 4, int(WEIGHTS.sum()), dtype=torch.float64)
    w, n, s = torch.zeros(LAYOUT.size, dtype=torch.float64), 400, 0.3
    values = [
        0.5 * (h * WeightNoise(s).weights(w, prng.fold_in(KEY, i), LAYOUT)[WEIGHTS].square()).sum() for i in range(n)
    ]
    error = 4 * s**2 * math.sqrt((h * h).sum() / 2 / n)
    assert abs(torch.stack(values).mean() - 0.5 * s**2 * h.sum()) < error


def test_the_gradient_passes_through_as_it_is():
    w = torch.randn(LAYOUT.size, dtype=torch.float64, requires_grad=True)
    v = torch.randn(LAYOUT.size, dtype=torch.float64)
    (g,) = torch.autograd.grad(WeightNoise(0.5).weights(w, KEY, LAYOUT) @ v, w)
    torch.testing.assert_close(g, v)

"""Noise on inputs: its size, its type, and the penalty that it is on average."""

import math

import pytest
import torch

from dlopt import prng
from dlopt.regularization.input_noise import InputNoise

KEY = prng.key(0, "input noise")


@pytest.mark.parametrize("std", [0.0, 0.1, 3.0])
def test_its_mean_is_zero_and_its_standard_deviation_is_std(std):
    x = torch.randn(200, 3, 20, dtype=torch.float64)
    noise = InputNoise(std).inputs(x, KEY) - x
    assert abs(noise.mean()) <= 4 * std / math.sqrt(noise.numel())
    assert noise.square().mean().item() == pytest.approx(std**2, rel=4 * math.sqrt(2 / noise.numel()), abs=1e-30)


def test_every_number_of_every_example_has_its_own():
    noise = InputNoise(1.0).inputs(torch.zeros(300, 200, dtype=torch.float64), KEY)
    for shifted in (noise.roll(1, 0), noise.roll(1, 1)):
        assert abs((noise * shifted).mean()) < 4 / math.sqrt(noise.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    assert InputNoise(0.1).inputs(torch.zeros(2, 3, dtype=dtype), KEY).dtype == dtype


def test_for_a_linear_net_and_squared_loss_it_is_a_penalty_on_squared_weights_on_average():
    """E (w'(x + s n) - y)^2 = (w'x - y)^2 + s^2 |w|^2."""
    w, x, s, n = torch.tensor([0.5, -2.0, 1.0]).double(), torch.tensor([1.0, 0.3, -0.2]).double(), 0.4, 200_000
    loss = (InputNoise(s).inputs(x.expand(n, 3), KEY) @ w - 1.0).square()
    expected = (x @ w - 1.0).square() + s**2 * w.square().sum()
    assert abs(loss.mean() - expected) < 4 * loss.std() / math.sqrt(n)

"""Expectations under N(0, 1) against closed forms."""

import math

import pytest
import torch

from dlopt.activation._quadrature import mean_square


def phi(x):
    return math.erfc(-x / math.sqrt(2)) / 2


CASES = {
    "a constant": (lambda z: torch.full_like(z, 3.0), 9.0),
    "z": (lambda z: z, 1.0),
    "z^2": (lambda z: z**2, 3.0),
    "z^3": (lambda z: z**3, 15.0),
    "e^z": (torch.exp, math.exp(2)),
    "the step": (lambda z: (z > 0).double(), 0.5),
    "relu": (torch.relu, 0.5),
    "|z|": (torch.abs, 1.0),
    "gelu": (torch.nn.functional.gelu, 1 / 3 + 1 / (2 * math.pi * math.sqrt(3))),
}


@pytest.mark.parametrize("name", CASES)
def test_mean_squares_are_those_of_the_closed_forms(name):
    f, expected = CASES[name]
    assert math.isclose(mean_square(f), expected, rel_tol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.1, 1.0, 3.0])
def test_fast_and_slow_decay_are_equally_exact(a):
    """E[e^(-2 a |z|)] = 2 e^(2 a^2) Phi(-2 a)."""
    value = mean_square(lambda z: torch.exp(-a * z.abs()))
    assert math.isclose(value, 2 * math.exp(2 * a * a) * phi(-2 * a), rel_tol=1e-11)


@pytest.mark.parametrize("width", [1e-3, 1e-6])
def test_a_kink_of_any_width_is_resolved(width):
    """E[e^(-|z| / h)] tends to 2 h / sqrt(2 pi) (1 - h^2 + 3 h^4 - ...) as h vanishes: the Mills ratio."""
    value = mean_square(lambda z: torch.exp(-z.abs() / (2 * width)))
    assert math.isclose(value, 2 * width / math.sqrt(2 * math.pi) * (1 - width**2 + 3 * width**4), rel_tol=1e-11)

"""Activations: what holds for every option of the group, values and slopes by formula, gains by quadrature."""

import math

import numpy as np
import pytest
import torch
from helpers import named, options
from torch import nn

ACTIVATIONS = {name: (name, {}) for name in options("activation")} | {
    "leaky_relu, alpha 0.2": ("leaky_relu", {"alpha": 0.2}),
    "elu, alpha 0.3": ("elu", {"alpha": 0.3}),
    "elu, alpha 2": ("elu", {"alpha": 2.0}),
}
activations = pytest.mark.parametrize("name", ACTIVATIONS)


def made(name):
    option, keys = ACTIVATIONS[name]
    return named("activation", option, **keys)


def phi(x):
    """The distribution function of N(0, 1)."""
    return math.erfc(-x / math.sqrt(2)) / 2


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def logistic(x):
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "linear": (lambda x: x, lambda x: 1.0),
    "relu": (lambda x: max(0.0, x), lambda x: float(x > 0)),
    "sigmoid": (logistic, lambda x: logistic(x) * (1 - logistic(x))),
    "tanh": (
        lambda x: (1 - math.exp(-2 * x)) / (1 + math.exp(-2 * x)),
        lambda x: 1 - ((1 - math.exp(-2 * x)) / (1 + math.exp(-2 * x))) ** 2,
    ),
    "leaky_relu": (lambda x: x if x > 0 else 0.01 * x, lambda x: 1.0 if x > 0 else 0.01),
    "leaky_relu, alpha 0.2": (lambda x: x if x > 0 else 0.2 * x, lambda x: 1.0 if x > 0 else 0.2),
    "gelu": (lambda x: x * phi(x), lambda x: phi(x) + x * density(x)),
    "elu": (lambda x: x if x > 0 else math.exp(x) - 1, lambda x: 1.0 if x > 0 else math.exp(x)),
    "elu, alpha 0.3": (
        lambda x: x if x > 0 else 0.3 * (math.exp(x) - 1),
        lambda x: 1.0 if x > 0 else 0.3 * math.exp(x),
    ),
    "elu, alpha 2": (lambda x: x if x > 0 else 2 * (math.exp(x) - 1), lambda x: 1.0 if x > 0 else 2 * math.exp(x)),
}
"""f and its derivative, for single numbers."""


POINTS = (-20.0, -3.0, -1.0, -0.75, -0.1, -1e-3, 1e-3, 0.1, 1.0, 3.0, 20.0)


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_slopes_are_those_of_the_formula(name):
    f, slope = FORMULAS[name]
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    y = made(name)()(x)
    torch.testing.assert_close(y, torch.tensor([f(v) for v in x.tolist()], dtype=x.dtype), rtol=1e-12, atol=1e-15)
    (g,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(g, torch.tensor([slope(v) for v in x.tolist()], dtype=x.dtype), rtol=1e-12, atol=1e-15)


@activations
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_works_number_by_number_on_any_shape(name, shape, dtype):
    f, x = made(name)(), torch.randn(shape, dtype=dtype)
    before = x.clone()
    y = f(x)
    assert y.shape == shape
    assert y.dtype == dtype
    torch.testing.assert_close(y.flatten(), torch.cat([f(v.view(1)) for v in x.flatten()]))
    assert torch.equal(x, before)


@activations
def test_first_and_second_derivatives_pass_a_numerical_check(name):
    x = torch.tensor([-2.0, -0.7, -0.1, 0.2, 0.8, 2.5], dtype=torch.float64, requires_grad=True)
    f = made(name)()
    assert torch.autograd.gradcheck(f, (x,))
    assert torch.autograd.gradgradcheck(f, (x,))


@activations
def test_a_module_has_no_weights_and_is_the_same_in_inference(name):
    f, x = made(name)(), torch.randn(20)
    assert isinstance(f, nn.Module)
    assert not list(f.parameters())
    assert torch.equal(f(x), f.eval()(x))
    assert made(name)() is not made(name)()


def mean_square(f):
    """E[f(z)^2] for z ~ N(0, 1), by Gauss-Legendre quadrature on each side of the kink."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    total = 0.0
    for left in (-12.0, 0.0):
        z = torch.from_numpy(left + 6.0 * (nodes + 1.0))
        total += float((torch.from_numpy(6.0 * weights) * f(z) ** 2 * torch.exp(-z * z / 2)).sum())
    return total / math.sqrt(2 * math.pi)


LEVEL = [name for name in ACTIVATIONS if ACTIVATIONS[name][0] not in ("linear", "sigmoid", "tanh")]


@pytest.mark.parametrize("name", LEVEL)
def test_the_gain_keeps_the_mean_square_of_a_normal_input(name):
    activation = made(name)
    assert math.isclose(activation.gain**2 * mean_square(activation()), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh"])
def test_the_gain_of_what_saturates_or_changes_nothing_is_one(name):
    assert made(name).gain == 1.0


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_the_limits_of_alpha_are_relu_and_the_identity(name):
    x, relu = torch.randn(100, dtype=torch.float64), named("activation", "relu")
    zero = named("activation", name, alpha=0.0)
    torch.testing.assert_close(zero()(x), relu()(x))
    assert math.isclose(zero.gain, relu.gain)
    if name == "leaky_relu":
        one = named("activation", name, alpha=1.0)
        torch.testing.assert_close(one()(x), x)
        assert math.isclose(one.gain, 1.0)

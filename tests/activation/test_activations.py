"""Activations: properties of every option, values and slopes by formula, gains by quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import build_blobs, list_options, make_option, train_runs
from torch import nn

from dlopt.base.layout import Layout

KEYS = {
    "leaky_relu": ("alpha", 0.01),
    "elu": ("alpha", 1.0),
    "softplus": ("beta", 1.0),
    "prelu": ("start", 0.25),
    "gelu": ("approximate", "none"),
}
"""The hyperparameter of an activation and its default."""
ACTIVATIONS = [
    *((option, KEYS.get(option, ("", 0.0))[1]) for option in list_options("activation")),
    *(("leaky_relu", 0.2), ("elu", 0.3), ("elu", 2.0), ("softplus", 7.0), ("softplus", 0.2), ("prelu", -0.5)),
    ("gelu", "tanh"),
]
activations = pytest.mark.parametrize(("option", "a"), ACTIVATIONS)


def make(option, a):
    return make_option("activation", option, **({KEYS[option][0]: a} if option in KEYS else {}))


def phi(x):
    """Return the distribution function of N(0, 1)."""
    return math.erfc(-x / math.sqrt(2)) / 2


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def logistic(x):
    return 1 / (1 + math.exp(-x))


def cubic(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def slope_of_gelu_tanh(x):
    t = math.tanh(cubic(x))
    return (1 + t) / 2 + x / 2 * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def tanh(x):
    return (1 - math.exp(-2 * x)) / (1 + math.exp(-2 * x))


ALPHA, LAMBDA = 1.6732632423543772, 1.0507009873554805
"""Klambauer, Unterthiner, Mayr and Hochreiter 2017, equation 14, to all digits of float64."""
FORMULAS = {
    "linear": (lambda x, a: x, lambda x, a: 1.0),
    "relu": (lambda x, a: max(0.0, x), lambda x, a: float(x > 0)),
    "sigmoid": (lambda x, a: logistic(x), lambda x, a: logistic(x) * (1 - logistic(x))),
    "tanh": (lambda x, a: tanh(x), lambda x, a: 1 - tanh(x) ** 2),
    "leaky_relu": (lambda x, a: x if x > 0 else a * x, lambda x, a: 1.0 if x > 0 else a),
    "prelu": (lambda x, a: x if x > 0 else a * x, lambda x, a: 1.0 if x > 0 else a),
    "gelu": (lambda x, a: x * phi(x) if a == "none" else x * (1 + math.tanh(cubic(x))) / 2,
             lambda x, a: phi(x) + x * density(x) if a == "none" else slope_of_gelu_tanh(x)),
    "hardswish": (lambda x, a: x * min(max(x + 3, 0), 6) / 6,
                  lambda x, a: (2 * x + 3) / 6 if -3 < x < 3 else float(x >= 3)),
    "mish": (lambda x, a: x * math.tanh(math.log1p(math.exp(x))),
             lambda x, a: math.tanh(math.log1p(math.exp(x)))
             + x * logistic(x) / math.cosh(math.log1p(math.exp(x))) ** 2),
    "elu": (lambda x, a: x if x > 0 else a * math.expm1(x), lambda x, a: 1.0 if x > 0 else a * math.exp(x)),
    "selu": (lambda x, a: LAMBDA * (x if x > 0 else ALPHA * math.expm1(x)),
             lambda x, a: LAMBDA * (1.0 if x > 0 else ALPHA * math.exp(x))),
    "silu": (lambda x, a: x * logistic(x), lambda x, a: logistic(x) + x * logistic(x) * (1 - logistic(x))),
    "softplus": (lambda x, a: math.log1p(math.exp(a * x)) / a, lambda x, a: logistic(a * x)),
}  # fmt: skip
"""f and its derivative, for a number x and the hyperparameter a."""
POINTS = (-20.0, -3.0, -1.0, -0.75, -0.1, -1e-3, 1e-3, 0.1, 1.0, 3.0, 20.0)


@activations
def test_values_and_slopes_are_those_of_the_formula(option, a):
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    y = make(option, a)().to(x.dtype)(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    for actual, formula in zip((y, g), FORMULAS[option], strict=True):
        expected = torch.tensor([formula(v, a) for v in POINTS], dtype=x.dtype)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


@activations
def test_it_is_elementwise_on_any_shape_and_leaves_its_input_unchanged(option, a):
    for shape, dtype in (((7,), torch.float32), ((2, 3), torch.float64), ((2, 3, 2, 3), torch.float32)):
        f, x = make(option, a)().to(dtype), torch.randn(shape, dtype=dtype)
        before = x.clone()
        y = f(x)
        assert (y.shape, y.dtype) == (shape, dtype)
        torch.testing.assert_close(y.flatten(), torch.cat([f(v.view(1)) for v in x.flatten()]))
        assert torch.equal(x, before)


@activations
def test_first_and_second_derivatives_pass_a_numerical_check(option, a):
    x = torch.tensor([-2.0, -0.7, -0.1, 0.2, 0.8, 2.5], dtype=torch.float64, requires_grad=True)
    f = make(option, a)().to(x.dtype)
    assert torch.autograd.gradcheck(f, (x,))
    assert torch.autograd.gradgradcheck(f, (x,))


@activations
def test_a_module_has_nothing_to_penalize_and_is_the_same_in_inference(option, a):
    f, x = make(option, a)(), torch.randn(20)
    assert isinstance(f, nn.Module)
    assert {p.kind for p in Layout.of(f)} == ({"norm"} if option == "prelu" else set()), "no penalty, no init"
    assert torch.equal(f(x), f.eval()(x))
    assert make(option, a)() is not make(option, a)()


def mean_square(f):
    """Return E[f(z)^2] for z ~ N(0, 1), by Gauss-Legendre quadrature between the kinks at -3, 0 and 3."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    total = 0.0
    for left, right in itertools.pairwise((-12.0, -3.0, 0.0, 3.0, 12.0)):
        z, half = torch.from_numpy(left + (right - left) / 2 * (nodes + 1.0)), (right - left) / 2
        total += float((torch.from_numpy(half * weights) * f(z).detach() ** 2 * torch.exp(-z * z / 2)).sum())
    return total / math.sqrt(2 * math.pi)


@activations
def test_the_gain_keeps_the_mean_square_of_a_normal_input_and_is_one_for_saturating_activations(option, a):
    activation = make(option, a)
    if option in ("linear", "sigmoid", "tanh"):
        assert activation.gain == 1.0
    else:
        assert math.isclose(activation.gain**2 * mean_square(activation().double()), 1.0, rel_tol=2e-12)


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_the_limits_of_alpha_are_relu_and_the_identity(name):
    x, relu = torch.randn(100, dtype=torch.float64), make_option("activation", "relu")
    zero = make_option("activation", name, alpha=0.0)
    torch.testing.assert_close(zero()(x), relu()(x))
    assert math.isclose(zero.gain, relu.gain)
    if name == "leaky_relu":
        one = make_option("activation", name, alpha=1.0)
        torch.testing.assert_close(one()(x), x)
        assert math.isclose(one.gain, 1.0)


def test_selu_has_mean_zero_and_mean_square_one_for_its_fixed_point():
    """Klambauer, Unterthiner, Mayr and Hochreiter 2017, equations 4 and 5 at (0, 1)."""
    f = make_option("activation", "selu")()
    assert math.isclose(mean_square(f), 1.0, rel_tol=1e-12)
    negative = ALPHA * (math.exp(0.5) * phi(-1.0) - 0.5)
    assert math.isclose(LAMBDA * (density(0.0) + negative), 0.0, abs_tol=1e-12)


def test_softplus_lies_above_relu_by_log_2_over_beta_at_most():
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64)
    for beta in (0.1, 1.0, 10.0):
        above = make_option("activation", "softplus", beta=beta)()(x) - x.clamp(min=0.0)
        assert (above > -1e-13).all(), "except for rounding"
        assert math.isclose(above.max(), math.log(2.0) / beta, rel_tol=1e-12)
        assert above.argmax() == 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_finite_and_has_no_step_where_it_becomes_the_identity(dtype):
    x = torch.tensor([-1e30, -500.0, 39.9999, 40.0, 40.0001, 500.0, 1e30], dtype=dtype, requires_grad=True)
    f = make_option("activation", "softplus", beta=1.0)()
    y = f(x)
    torch.testing.assert_close(y[2:], x[2:], rtol=4 * torch.finfo(dtype).eps, atol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([0, 0, 1, 1, 1, 1, 1], dtype=dtype))


@pytest.mark.parametrize("penalty", ["none", "l2", "weight_decay"])
def test_the_slopes_of_prelu_are_learned_one_for_each_layer_and_not_shrunk(penalty, tmp_path):
    experiment = build_blobs("activation=prelu", "arch.widths=[5,4]", f"regularization={penalty}", "optimizer=sgd")
    slopes = [p for p in Layout.of(experiment.model) if p.name.startswith("hidden") and p.shape == (1,)]
    assert len(slopes) == 2
    assert all((experiment.w[p.slice] == 0.25).all() for p in slopes)
    _, (run,) = train_runs(tmp_path, experiment)
    learned = [run.load("last")["model"][p.name] for p in slopes]
    assert all(abs(a - 0.25) > 1e-4 for a in learned)
    for part in experiment.regularization.values():
        w = torch.ones_like(experiment.w).requires_grad_()
        value = part.penalty(w, Layout.of(experiment.model))
        if value is not None:
            (g,) = torch.autograd.grad(value, w)
            assert all((g[p.slice] == 0).all() for p in slopes)


@pytest.mark.parametrize(("name", "key"), [("elu", "alpha"), ("leaky_relu", "alpha"), ("prelu", "start")])
def test_a_slope_whose_square_overflows_has_a_gain(name, key):
    assert 0.0 < make_option("activation", name, **{key: 1e200}).gain < 1e-199

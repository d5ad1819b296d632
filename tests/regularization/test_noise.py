"""Noise on inputs, weights and gradients, and dropped weights: moments, gradients, and effects on average."""

import math

import pytest
import torch
from helpers import build_blobs, train_runs
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.bound import WEIGHT_KEYS
from dlopt.objective.clipping import Clip
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.dropconnect import DropConnect
from dlopt.regularization.gradient_noise import GradientNoise
from dlopt.regularization.input_noise import InputNoise
from dlopt.regularization.weight_noise import WeightNoise

LAYOUT = Layout.of(nn.Linear(100, 80))
WEIGHTS = LAYOUT.mask("weight").bool()
KEY = prng.key(0, "noise")


def draw_weights():
    return torch.randn(LAYOUT.size, dtype=torch.float64)


def check_moments(noise, variance):
    assert abs(noise.mean()) <= 4 * math.sqrt(variance / noise.numel())
    assert noise.square().mean().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / noise.numel()), abs=1e-30)


@pytest.mark.parametrize("std", [0.0, 0.1, 3.0])
def test_noise_has_mean_zero_and_its_standard_deviation(std):
    x, w = torch.randn(200, 3, 20, dtype=torch.float64), draw_weights()
    check_moments(InputNoise(std).inputs(x, KEY) - x, std**2)
    check_moments((WeightNoise(std).weights(w, KEY, LAYOUT) - w)[WEIGHTS], std**2)


@pytest.mark.parametrize("step", [0, 1, 10_000])
@pytest.mark.parametrize(("eta", "gamma"), [(0.01, 0.55), (1.0, 0.0), (0.3, 1.0)])
def test_the_variance_of_gradient_noise_is_that_of_equation_1(eta, gamma, step):
    g = draw_weights()
    noise = GradientNoise(eta, gamma).gradient(g, KEY, step, LAYOUT) - g
    check_moments(noise, eta / (1 + step) ** gamma)
    assert noise.all(), "biases get it too"


# ------------------------------------------------------------------------------------------- inputs


def test_every_number_of_every_example_has_its_own_noise():
    noise = InputNoise(1.0).inputs(torch.zeros(300, 200, dtype=torch.float64), KEY)
    for shifted in (noise.roll(1, 0), noise.roll(1, 1)):
        assert abs((noise * shifted).mean()) < 4 / math.sqrt(noise.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_of_inputs_is_kept(dtype):
    assert InputNoise(0.1).inputs(torch.zeros(2, 3, dtype=dtype), KEY).dtype == dtype


def test_for_a_linear_network_and_squared_loss_input_noise_is_a_penalty_on_squared_weights_on_average():
    """E (w'(x + s n) - y)^2 = (w'x - y)^2 + s^2 |w|^2."""
    w, x, s, n = torch.tensor([0.5, -2.0, 1.0]).double(), torch.tensor([1.0, 0.3, -0.2]).double(), 0.4, 200_000
    loss = (InputNoise(s).inputs(x.expand(n, 3), KEY) @ w - 1.0).square()
    expected = (x @ w - 1.0).square() + s**2 * w.square().sum()
    assert abs(loss.mean() - expected) < 4 * loss.std() / math.sqrt(n)


# ------------------------------------------------------------------------------------------- weights


def test_on_average_a_quadratic_grows_by_half_the_variance_times_the_trace_of_its_hessian():
    """E f(w + s n) = f(w) + (s^2 / 2) tr H, exactly."""
    h = torch.linspace(0.5, 4, int(WEIGHTS.sum()), dtype=torch.float64)
    w, n, s = torch.zeros(LAYOUT.size, dtype=torch.float64), 200, 0.3
    values = [
        0.5 * (h * WeightNoise(s).weights(w, prng.fold_in(KEY, i), LAYOUT)[WEIGHTS].square()).sum() for i in range(n)
    ]
    error = 4 * s**2 * math.sqrt((h * h).sum() / 2 / n)
    assert abs(torch.stack(values).mean() - 0.5 * s**2 * h.sum()) < error


def test_the_gradient_passes_through_weight_noise_unchanged():
    w, v = draw_weights().requires_grad_(), draw_weights()
    (g,) = torch.autograd.grad(WeightNoise(0.5).weights(w, KEY, LAYOUT) @ v, w)
    torch.testing.assert_close(g, v)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9])
def test_dropconnect_sets_a_weight_to_zero_or_divides_it_by_the_probability_of_keeping(p):
    w = draw_weights()
    masked = DropConnect(p).weights(w, KEY, LAYOUT)[WEIGHTS]
    alive = masked != 0
    torch.testing.assert_close(masked[alive], w[WEIGHTS][alive] / (1 - p))
    assert abs(alive.double().mean() - (1 - p)) <= 4 * math.sqrt(p * (1 - p) / len(alive))


def test_the_mean_of_dropconnect_over_steps_is_the_weight_that_inference_uses():
    n, p, w = 1000, 0.5, draw_weights()
    total = torch.zeros_like(w)
    for step in range(n):
        total += DropConnect(p).weights(w, prng.fold_in(KEY, step), LAYOUT)
    error = (total / n - w)[WEIGHTS] / (w.abs()[WEIGHTS] * math.sqrt(p / (1 - p) / n))
    assert abs(error.mean()) < 4 / math.sqrt(len(error))
    assert error.abs().max() < 5
    assert error.square().mean() == pytest.approx(1, abs=0.15)


def test_the_gradient_of_dropconnect_is_that_at_the_masked_weights_and_zero_for_dropped_ones():
    rule, model = DropConnect(0.4), nn.Linear(50, 3).double()
    problem, plain = (
        Problem(model, CrossEntropy([], None), (rule,)),
        Problem(nn.Linear(50, 3).double(), CrossEntropy([], None)),
    )
    x, y = torch.randn(8, 50, dtype=torch.float64), torch.arange(8) % 3
    w = torch.randn(problem.layout.size, dtype=torch.float64)
    masked = rule.weights(w, prng.fold_in(KEY, WEIGHT_KEYS), problem.layout)
    loss, g = MiniBatchObjective(plain, x, y, KEY).gradient(masked)
    weights = problem.layout.mask("weight").bool()
    expected = torch.where(weights, torch.where(masked == 0, 0.0, g / 0.6), g)
    torch.testing.assert_close(MiniBatchObjective(problem, x, y, KEY).gradient(w), (loss, expected))
    assert (expected[weights] == 0).any()


# ------------------------------------------------------------------------------------------- gradients


def test_gradient_noise_that_underflows_is_zero():
    g = torch.randn(LAYOUT.size)
    assert torch.equal(GradientNoise(0.3, 5000.0).gradient(g, KEY, 1, LAYOUT), g)
    assert not torch.equal(GradientNoise(0.3, 5000.0).gradient(g, KEY, 0, LAYOUT), g)


def test_differences_of_gradients_of_one_step_have_no_noise():
    model = nn.Linear(5, 3).double()
    noisy, plain = (
        Problem(model, CrossEntropy([], None), (GradientNoise(0.3, 0.5),)),
        Problem(model, CrossEntropy([], None)),
    )
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    w, v = torch.randn(2, plain.layout.size, dtype=torch.float64)
    one, other = (MiniBatchObjective(problem, x, y, KEY, 4) for problem in (noisy, plain))
    difference, expected = (o.gradient(v)[1] - o.gradient(w)[1] for o in (one, other))
    torch.testing.assert_close(difference, expected)
    assert not torch.allclose(one.gradient(w)[1], other.gradient(w)[1])


def test_the_gradient_is_clipped_and_the_noise_is_not():
    problem = Problem(
        nn.Linear(5, 3).double(),
        CrossEntropy([], None),
        (GradientNoise(100.0, 0.0),),
        clip=Clip(1e-9, None, None, 1e-3, False),
    )
    both = MiniBatchObjective(problem, torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3, KEY)
    _, g = both.gradient(torch.randn(18, dtype=torch.float64))
    assert g.norm() > 10


def test_gradient_noise_falls_during_a_run(tmp_path):
    """With a huge eta, the size of a step of sgd is that of the noise."""
    quiet = ("arch.widths=[200]", "optimizer=sgd", "optimizer.lr=1e-6", "diagnostic=custom", "steps=9",
             "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=1")  # fmt: skip
    prefix = "regularization.gradient_noise"
    noise = ("regularization=gradient_noise", f"{prefix}.eta=1e6", f"{prefix}.gamma=2")
    experiment = build_blobs(*quiet, *noise, "precision=float64")
    _, (run,) = train_runs(tmp_path, experiment)
    size = experiment.w.numel()
    for t, row in enumerate(run.rows()):
        expected = 1e-6 * 1e3 / (1 + t) * math.sqrt(size)
        assert row["mine/moved"] == pytest.approx(expected, rel=4 / math.sqrt(2 * size))

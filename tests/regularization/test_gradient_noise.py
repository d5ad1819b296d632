"""Gradient noise: its variance over steps, and its place behind clipping."""

import math

import pytest
import torch
from helpers import build_blobs, train_runs
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.clipping import Clip
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.gradient_noise import GradientNoise

LAYOUT = Layout.of(nn.Linear(200, 100))
KEY = prng.key(0, "gradient noise")


@pytest.mark.parametrize("step", [0, 1, 99, 10_000])
@pytest.mark.parametrize(("eta", "gamma"), [(0.01, 0.55), (1.0, 0.0), (0.3, 1.0)])
def test_its_variance_at_each_step_is_that_of_equation_1(eta, gamma, step):
    g = torch.randn(LAYOUT.size, dtype=torch.float64)
    noise = GradientNoise(eta, gamma).gradient(g, KEY, step, LAYOUT) - g
    variance = eta / (1 + step) ** gamma
    assert abs(noise.mean()) < 4 * math.sqrt(variance / len(g))
    assert noise.square().mean().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / len(g)))
    assert noise.all(), "biases get it too"


def test_noise_that_falls_beyond_what_a_number_can_be_is_zero():
    g = torch.randn(LAYOUT.size)
    assert torch.equal(GradientNoise(0.3, 5000.0).gradient(g, KEY, 1, LAYOUT), g)
    assert not torch.equal(GradientNoise(0.3, 5000.0).gradient(g, KEY, 0, LAYOUT), g)


def test_differences_of_gradients_of_one_step_have_no_noise():
    model = nn.Linear(5, 3).double()
    noisy, plain = Problem(model, CrossEntropy([]), (GradientNoise(0.3, 0.5),)), Problem(model, CrossEntropy([]))
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3
    w, v = torch.randn(2, plain.layout.size, dtype=torch.float64)
    one, other = (MiniBatchObjective(problem, x, y, KEY, 4) for problem in (noisy, plain))
    difference, expected = (o.gradient(v)[1] - o.gradient(w)[1] for o in (one, other))
    torch.testing.assert_close(difference, expected)
    assert not torch.allclose(one.gradient(w)[1], other.gradient(w)[1])


def test_the_gradient_is_clipped_and_the_noise_is_not():
    model = nn.Linear(5, 3).double()
    rules = (GradientNoise(100.0, 0.0),)
    problem = Problem(model, CrossEntropy([]), rules, clip=Clip(1e-9, None))
    both = MiniBatchObjective(problem, torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3, KEY)
    _, g = both.gradient(torch.randn(18, dtype=torch.float64))
    assert g.norm() > 10


def test_it_falls_as_the_run_goes_on(tmp_path):
    """With nothing but noise to follow, the size of a step of sgd is that of the noise."""
    quiet = ("arch.widths=[200]", "optimizer=sgd", "optimizer.lr=1e-6", "diagnostic=custom", "steps=9",
             "diagnostic.custom._target_=mine.StepLength", "+diagnostic.custom.every=1")  # fmt: skip
    noise = (
        "regularization=gradient_noise",
        "regularization.gradient_noise.eta=1e6",
        "regularization.gradient_noise.gamma=2",
    )
    experiment = build_blobs(*quiet, *noise, "precision=float64")
    _, (run,) = train_runs(tmp_path, experiment)
    size = experiment.w.numel()
    for t, row in enumerate(run.rows()):
        expected = 1e-6 * 1e3 / (1 + t) * math.sqrt(size)
        assert row["mine/moved"] == pytest.approx(expected, rel=4 / math.sqrt(2 * size))

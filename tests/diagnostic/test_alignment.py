"""diagnostic=alignment against dense Hessians, exact quadratics and a fit by numpy."""

import math

import numpy as np
import pytest
import torch
from helpers import build_blobs, read_rows, train_runs
from objectives import SETTINGS, make_objective, make_problem

from dlopt.diagnostic.alignment import Alignment, _compute_alpha
from dlopt.parts import StepRecord


def measure(objective, w, after, lr=0.1):
    record = StepRecord(0, w, after, torch.zeros(()), torch.zeros_like(w), lr, objective.layout, objective)
    tags, memory = Alignment(None).measure(record, None)
    assert memory is None
    return {name.removeprefix("alignment/"): value.item() for name, value in tags.items()}


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_quadratic_model_is_that_of_the_dense_hessian(arch, setting):
    problem, w = make_problem(arch, *SETTINGS[setting])
    objective = make_objective(problem, arch=arch)
    h, (f, g) = objective.hessian(w), objective.gradient(w)
    after = w - 0.3 * g + 0.01
    tags, d = measure(objective, w, after), after - w
    assert tags["predicted"] == pytest.approx((g @ d + d @ h @ d / 2).item(), rel=1e-9)
    assert tags["measured"] == pytest.approx((objective.value(after) - f).item(), rel=1e-9)
    assert tags["gg"] == pytest.approx((g @ g).item(), rel=1e-9)
    assert tags["gHg"] == pytest.approx((g @ h @ g).item(), rel=1e-9)


def test_a_small_step_changes_the_loss_as_predicted():
    """The error is of third order."""
    problem, w = make_problem("mlp", *SETTINGS["all"])
    objective = make_objective(problem)
    errors = []
    for size in (1e-2, 1e-3):
        tags = measure(objective, w, w - size * objective.gradient(w)[1])
        errors.append(abs(tags["predicted"] - tags["measured"]))
    assert errors[1] == pytest.approx(errors[0] / 1000, rel=0.1)


@pytest.mark.parametrize(("factor", "flag"), [(0.99, 0), (1.01, 1)])
@pytest.mark.parametrize("lanes", [False, True])
def test_the_flag_is_raised_when_the_curvature_exceeds_the_slope(factor, flag, lanes):
    problem, w = make_problem()
    objective = make_objective(problem)
    h, (_, g) = objective.hessian(w), objective.gradient(w)
    assert g @ h @ g > 0
    lr = factor * 2 * (g @ g) / (g @ h @ g)
    tags = measure(objective, w, w - 0.1 * g, lr.unsqueeze(0) if lanes else lr.item())
    assert tags["ill_conditioned"] == flag


def test_the_flag_is_unknown_if_the_curvature_is_not_finite():
    problem, w = make_problem()
    objective = make_objective(problem)
    tags = measure(objective, torch.full_like(w, torch.nan), w, 0.1)
    assert math.isnan(tags["ill_conditioned"])


def fit_alpha(change, m_0, m_1):
    """Least squares of c, b and a by numpy."""
    rows = np.array([[1.0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 2]])
    (_, b, a), *_ = np.linalg.lstsq(rows, np.array([0.0, change, m_0, m_1]), rcond=None)
    return 1 / (-b / (2 * a)) - 1


@pytest.mark.parametrize("numbers", [(-0.3, -1.0, 0.2), (0.4, -0.5, 2.0), (-1.0, -1.0, -0.7), (0.2, 0.1, 0.5)])
def test_alpha_is_the_one_of_the_best_parabola(numbers):
    alpha = _compute_alpha(*(torch.tensor(x, dtype=torch.float64) for x in numbers))
    assert alpha.item() == pytest.approx(fit_alpha(*numbers))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 1.7, 2.0, 3.0])
def test_alpha_of_a_quadratic_is_the_step_relative_to_the_minimum(t):
    """The step is t times the one to the minimum, of f = 2 (s - 1)^2; lanes are measured one by one."""
    t = torch.tensor([t, 1.0], dtype=torch.float64)
    change, m_0, m_1 = 2 * (t - 1) ** 2 - 2, -4 * t, 4 * (t - 1) * t
    torch.testing.assert_close(_compute_alpha(change, m_0, m_1), t - 1)


def test_optimizers_without_a_learning_rate_have_no_flag(tmp_path):
    own = ("optimizer=custom", "optimizer._target_=mine.NormalizedDescent", "diagnostic=alignment", "epochs=1")
    _, (run,) = train_runs(tmp_path, build_blobs(*own, "diagnostic.alignment.every=1"))
    rows = read_rows(run)
    assert "alignment/alpha" in rows[0]
    assert not any("alignment/ill_conditioned" in row for row in rows)


def test_the_step_is_the_one_taken_and_the_gradient_is_not_clipped(tmp_path):
    overrides = ("optimizer=sgd", "batch_size=full", "precision=float64", "diagnostic=[alignment,gradients]", "epochs=1",
                 "diagnostic.alignment.every=1", "diagnostic.gradients.every=1", "clip.norm=0.01")  # fmt: skip
    _, (run,) = train_runs(tmp_path, build_blobs(*overrides, "optimizer.lr=0.1"))
    (row,) = read_rows(run)
    assert row["alignment/gg"] == pytest.approx(row["gradient/norm"] ** 2)
    clipped = -0.1 * 0.01 * row["gradient/norm"]
    assert row["alignment/predicted"] == pytest.approx(clipped, rel=1e-2)

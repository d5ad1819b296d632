"""Test surfaces: values, minima and saddles against independent formulas, runs without data, and stability limits."""

import itertools
import math
import re

import numpy as np
import pytest
import scipy.optimize
import torch
from helpers import build_experiment, load_weights, read_rows, train_runs

from dlopt.arch import _surfaces
from dlopt.arch.surface import Surface
from dlopt.cli import main
from dlopt.config.compose import groups
from dlopt.optimizer.newton import Newton
from dlopt.rundir.find import find_run

NAMES = [*_surfaces.SURFACES, *_surfaces.FAMILIES]


def make(name, **keys):
    keys = dict.fromkeys(("start", "a", "n", "condition", "rotation")) | keys
    return Surface(name, **keys).double()


def values(name, points, **parameters):
    return _surfaces.make_surface(name, **parameters).formula(torch.as_tensor(points, dtype=torch.float64)).numpy()


def differentiate(surface, point):
    """Return f, its gradient and the eigenvalues of its Hessian."""
    w = torch.tensor(point, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(surface.formula, w)
    return surface.formula(w), torch.autograd.functional.jacobian(surface.formula, w), torch.linalg.eigvalsh(hessian)


def branin(x, y):
    """Return it with the constants a to t by which it is usually stated."""
    a, b, c, r, s, t = 1, 5.1 / (4 * math.pi**2), 5 / math.pi, 6, 10, 1 / (8 * math.pi)
    return a * (y - b * x**2 + c * x - r) ** 2 + s * (1 - t) * np.cos(x) + s


BY_HAND = {
    "beale": lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
    "rosenbrock": lambda x, y: scipy.optimize.rosen([x, y]),
    "long_valley": lambda x, y: x**4 / 64 - x**2 / 8 + 1 / 4 + 5 * y**2,
    "ravine": lambda x, y: (20 * x * x + y * y) / 2,
    "saddle": lambda x, y: (x - y) * (x + y),
    "monkey_saddle": lambda x, y: ((x + 1j * y) ** 3).real,
    "himmelblau": lambda x, y: np.sum(np.square([x * x + y - 11, x + y * y - 7])),
    "branin": branin,
    "booth": lambda x, y: 5 * x**2 + 5 * y**2 + 8 * x * y - 34 * x - 38 * y + 74,
    "coupled_quadratic": lambda x, y: 1.1 * x**2 + 1.1 * y**2 - 2 * x * y,
    "ill_conditioned": lambda x, y: (x**2 + 100 * y**2) / 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_an_independent_formula(name):
    points = np.random.default_rng(0).uniform(-3, 3, (5, 4, 2))
    expected = [[BY_HAND[name](*point) for point in row] for row in points]
    np.testing.assert_allclose(values(name, points), expected, rtol=1e-12, atol=1e-12)
    point = points[0, 0].tolist()
    assert make(name, start=point)().item() == pytest.approx(expected[0][0], rel=1e-12)


def test_the_gradient_of_rosenbrock_is_that_of_scipy():
    w = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(_surfaces.rosenbrock, w)
    np.testing.assert_allclose(gradient, scipy.optimize.rosen_der(w.numpy()), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_known_minima_are_minima(name):
    surface = _surfaces.make_surface(name)
    assert (surface.minimum is None) == (not surface.minima)
    for point in surface.minima:
        f, gradient, eigenvalues = differentiate(surface, point)
        assert f.item() == pytest.approx(surface.minimum, abs=1e-14)
        assert gradient.norm() < 1e-12
        assert eigenvalues[0] > 0.1
    grid = values(name, list(itertools.product(*(np.linspace(*ends, 60) for ends in surface.box))))
    assert grid.min() >= (surface.minimum or -math.inf)


@pytest.mark.parametrize("name", NAMES)
def test_the_known_saddles_have_curvatures_of_both_signs(name):
    surface = _surfaces.make_surface(name)
    for point in surface.saddles:
        _, gradient, eigenvalues = differentiate(surface, point)
        assert gradient.norm() < 1e-12
        if name == "monkey_saddle":
            assert eigenvalues.tolist() == [0, 0]
        else:
            assert eigenvalues[0] < -0.1 < 0.1 < eigenvalues[1]


@pytest.mark.parametrize("name", NAMES)
def test_start_and_minima_lie_in_the_box_of_the_picture(name):
    surface = _surfaces.make_surface(name)
    (left, right), (bottom, top) = surface.box
    inside = [left < x < right and bottom < y < top for x, y in (surface.start, *surface.minima)]
    assert all(inside) or name == "long_valley"  # the other valley is left out
    assert inside[0]


@pytest.mark.parametrize(("n", "condition"), [(2, 100.0), (7, 1e4), (5, 1.0)])
def test_the_ill_conditioned_quadratic_has_eigenvalues_from_1_to_the_condition_number(n, condition):
    for rotation in (None, 0, 1):
        hessian = make("ill_conditioned", n=n, condition=condition, rotation=rotation).hessian
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), np.geomspace(1, condition, n), rtol=1e-9)
        assert (rotation is None) == bool((hessian == hessian.diag().diag()).all()) or condition == 1


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_run_starts_at_the_standard_point_or_at_the_typed_one(precision):
    keys = ("data=none", "arch.function=rosenbrock", f"precision={precision}")
    expected = torch.tensor([-1.2, 1.0], dtype=getattr(torch, precision))
    assert torch.equal(build_experiment(*keys).w, expected)
    assert build_experiment(*keys, "arch.start=[0.25,-3]", "init=he", "seed=5").w.tolist() == [0.25, -3.0]


def test_a_run_without_data_minimizes_the_surface_itself(tmp_path):
    """Gradient descent on a quadratic, step by step; the test of the summary is the last iterate."""
    experiment = build_experiment(
        "data=none", "arch.function=ravine", "optimizer=sgd", "optimizer.lr=0.05", "steps=6", "precision=float64"
    )
    assert experiment.validation is None
    (summary,), (run,) = train_runs(tmp_path, experiment)
    losses = [10 * (1 - 0.05 * 20) ** (2 * k) + 81 * 0.95 ** (2 * k) / 2 for k in range(7)]
    assert [row["train/loss"] for row in read_rows(run)] == pytest.approx(losses[:6], rel=1e-12)
    assert summary["test/loss"] == pytest.approx(losses[6], rel=1e-12)
    assert load_weights(run).tolist() == pytest.approx([0, 9 * 0.95**6], abs=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "keys", "limit"), [("sgd", (), 0.1), ("momentum", ("optimizer.momentum=0.9",), 0.19)]
)
def test_gradient_descent_on_a_quadratic_is_stable_up_to_its_limit_and_not_beyond(optimizer, keys, limit, tmp_path):
    """2 / lambda_max, and 2 (1 + b) / lambda_max with momentum b; the largest eigenvalue of the ravine is 20."""
    common = (
        "data=none",
        "arch.function=ravine",
        f"optimizer={optimizer}",
        *keys,
        "steps=400",
        "eval_every=400",
        "precision=float64",
    )
    rates = [limit * 0.99, limit * 1.01]
    _, runs = train_runs(tmp_path, *(build_experiment(*common, f"optimizer.lr={lr}") for lr in rates))
    below, above = (abs(load_weights(run)[0]) for run in runs)
    assert below < 0.1
    assert above > 10


EXACT = ["optimizer.damping=0", "optimizer.solver=dense"]


def test_newton_is_drawn_to_the_saddle_and_saddle_free_newton_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends = {}
    for optimizer in ("newton", "saddle_free_newton"):
        keys = ["optimizer.adapt=none"] if optimizer == "newton" else []
        assert main(["train", "-q", "experiment=saddle", f"optimizer={optimizer}", *EXACT, *keys, "steps=5"]) == 0
        ends[optimizer] = load_weights(find_run("last"))
    assert ends["newton"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert ends["saddle_free_newton"].tolist() == pytest.approx([0, 0.001 * 2**5], abs=1e-6)


def test_newton_with_the_keys_in_the_experiments_comment_stops_at_the_saddle(tmp_path):
    (line,) = re.findall(r"# Textbook Newton: (.+)", (groups.CONF / "experiment/saddle.yaml").read_text())
    assert all(word.removeprefix("optimizer.") in Newton.__doc__ for word in line.split()[1:])
    _, (run,) = train_runs(tmp_path, build_experiment("experiment=saddle", *line.split()))
    assert load_weights(run).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_the_experiment_leaves_the_saddle_with_its_own_keys(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_experiment("experiment=saddle"))
    assert summary["test/loss"] < -1


@pytest.mark.parametrize("name", NAMES)
def test_each_surface_has_an_experiment_that_descends(name, tmp_path):
    experiment = build_experiment(
        f"experiment={name}", "precision=float64", *(["steps=20"] if name != "saddle" else [])
    )
    assert experiment.model.surface.formula(experiment.w) == values(name, _surfaces.make_surface(name).start)
    (summary,), (run,) = train_runs(tmp_path, experiment)
    assert summary["status"] == "done"
    assert summary["test/loss"] < read_rows(run)[0]["train/loss"]


def test_presets_and_surfaces_have_the_same_names():
    assert {*NAMES, "quadratic"} <= set(groups.list_option_names("experiment"))


# ------------------------------------------------------------------------------------------- a custom function

VALLEY = ("data=none", "arch=custom", "arch._target_=mine.Valley")


def test_a_custom_function_of_its_weights_keeps_its_names_and_is_minimized(tmp_path):
    experiment = build_experiment(
        *VALLEY, "optimizer=newton", *EXACT, "optimizer.adapt=none", "steps=1", "precision=float64"
    )
    assert [name for name, _ in experiment.model.named_parameters()] == ["x", "y"]
    (summary,), (run,) = train_runs(tmp_path, experiment)
    assert read_rows(run)[0]["train/loss"] == 4 + 50
    assert summary["test/loss"] == pytest.approx(0, abs=1e-20)
    assert load_weights(run).tolist() == pytest.approx([1, 0, 0], abs=1e-12)


def test_lanes_of_a_custom_function_are_its_single_runs(tmp_path):
    experiments = [
        build_experiment(*VALLEY, "optimizer=momentum", f"optimizer.lr={lr}", "steps=9", "precision=float64")
        for lr in (0.01, 0.02)
    ]
    _, lanes = train_runs(tmp_path / "lanes", *experiments)
    for i, experiment in enumerate(experiments):
        _, (single,) = train_runs(tmp_path / str(i), experiment)
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(single), rtol=1e-12, atol=0)


def test_a_surface_is_shown_evaluated_and_verified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-q", "data=none", "optimizer=sgd", "optimizer.lr=0.01", "epochs=3"]) == 0
    assert main(["verify", "last"]) == 0
    assert main(["show"]) == 0
    capsys.readouterr()
    assert main(["evaluate"]) == 0
    said = capsys.readouterr().out
    assert "loss" in said
    assert "target" not in said
    assert main(["evaluate", "--png"]) == 2
    assert "--png" in capsys.readouterr().err

"""diagnostic=sharpness against dense Hessians, and stability limits against optimizers on quadratics."""

import copy
import statistics

import numpy as np
import pytest
import torch
from helpers import build_experiment, list_options, make_option, read_rows, train_runs
from objectives import SETTINGS, make_objective, make_problem

from dlopt.base.layout import Layout
from dlopt.diagnostic.sharpness import Sharpness
from dlopt.optimizer.nadam import NAdamState
from dlopt.parts import Optimizer, StepRecord

LIMITED = [
    name
    for name in list_options("optimizer")
    if type(make_option("optimizer", name)).stability_limit is not Optimizer.stability_limit
]


def measure(objective, w, optimizer, state=(), times=8, iterations=4):
    """Return the readings of the last of several measurements at one iterate."""
    record = StepRecord(
        0, w, w + 1, torch.zeros(()), torch.zeros_like(w), 0.1, objective.layout, objective, optimizer=optimizer,
        state=state,
    )  # fmt: skip
    memory = None
    for _ in range(times):
        tags, memory = Sharpness(None, iterations).measure(record, memory)
    return {name.removeprefix("sharpness/"): value for name, value in tags.items()}


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_it_is_the_largest_eigenvalue_of_the_dense_hessian(arch, setting):
    problem, w = make_problem(arch, *SETTINGS[setting])
    objective = make_objective(problem, arch=arch)
    tags = measure(objective, w, make_option("optimizer", "sgd", lr=0.1))
    assert tags.keys() == {"lambda_max", "limit"}
    assert tags["limit"].item() == pytest.approx(20)
    top = torch.linalg.eigvalsh(objective.hessian(w))[-1].item()
    assert tags["lambda_max"].item() == pytest.approx(top, rel=1e-6)


def test_a_single_product_per_measurement_is_the_power_method():
    """It is a Rayleigh quotient, so it never exceeds the largest eigenvalue, and more products come closer."""
    problem, w = make_problem()
    objective = make_objective(problem)
    top = torch.linalg.eigvalsh(objective.hessian(w))[-1].item()
    values = [measure(objective, w, make_option("optimizer", "sgd"), times=1, iterations=k)["lambda_max"].item()
              for k in (1, 2, 4, 8, 200)]  # fmt: skip
    assert values == sorted(values)
    assert values[-1] == pytest.approx(top)


@pytest.mark.parametrize("option", ["adam", "amsgrad", "nadam", "radam", "rmsprop", "rmsprop_nesterov", "adagrad"])
def test_the_preconditioned_sharpness_is_that_of_the_step_taken(option):
    """The divisor is read off the step itself: with momentum off, it is lr g / (w - w_new)."""
    keys = {"adam": {"beta1": 0.0}, "amsgrad": {"beta1": 0.0}, "nadam": {"beta1": 0.0},
            "radam": {"beta1": 0.0, "beta2": 0.9}, "rmsprop": {"momentum": 0.0},
            "rmsprop_nesterov": {"momentum": 0.0}}.get(option, {})  # fmt: skip
    problem, w = make_problem()
    objective = make_objective(problem)
    optimizer = make_option("optimizer", option, lr=0.01, **keys)
    state = optimizer.init(w, problem.layout)
    at = w.clone()
    for _ in range(3):
        before = at.clone()
        step = optimizer.step(at, state, objective)
        at, state = step.w, step.state
    divisor = 0.01 * step.gradient / (before - at)
    assert divisor.min() > 0
    torch.testing.assert_close(optimizer.preconditioner(state), divisor, rtol=1e-6, atol=1e-9)
    tags = measure(objective, before, optimizer, state, iterations=problem.layout.size)
    values = torch.linalg.eigvals(objective.hessian(before) / divisor.unsqueeze(-1)).real
    assert tags["preconditioned"].item() == pytest.approx(values.max().item(), rel=1e-6)


class Parabola:
    """f(w) = h w^2 / 2."""

    def __init__(self, h):
        self.h = h
        self.layout = Layout.of(torch.nn.Linear(1, 1, bias=False))

    def gradient(self, w):
        return self.h * w.square().sum(-1) / 2, self.h * w


LONG_AGO = {"v": 4.0, "largest": 4.0, "square": 4.0, "total": 4.0, "t": 1e7, "product": 0.0}
"""A state whose averages have settled long ago."""


def fill_like(x, value):
    return torch.full_like(x, value) if isinstance(x, torch.Tensor) else int(value)


COUNTERS = ("t", "product")
"""Fields of a state that change the coefficients of a step."""


@pytest.mark.parametrize("age", [1, 2, 5, 30, None])
@pytest.mark.parametrize("option", LIMITED)
def test_the_limit_separates_convergence_from_divergence(option, age):
    """On a parabola with 0.97 and 1.03 of the limit, after division by D, which gradients near zero do not change.

    age   number of the step whose coefficients all steps have; None: of a step long after the start
    """
    slow = {k: 1 - 1e-12 for k in ("beta2", "beta3", "decay") if hasattr(make_option("optimizer", option), k)}
    optimizer = make_option("optimizer", option, lr=0.01, **slow)
    for factor, diverges in ((0.97, False), (1.03, True)):
        w = torch.full((1,), 1e-13, dtype=torch.float64)
        state, divisor = optimizer.init(w, Parabola(1.0).layout), 1.0
        for _ in range((age or 1) - 1):
            state = optimizer.step(torch.zeros_like(w), state, Parabola(1.0)).state
        fields = LONG_AGO if age is None else {k: v for k, v in LONG_AGO.items() if k not in COUNTERS}
        if type(optimizer).preconditioner is not Optimizer.preconditioner:
            fields = fields | ({"v": 0.0} if "square" in state._fields else {})
            state = type(state)(
                **{k: fill_like(x, fields[k]) if k in fields else x for k, x in state._asdict().items()}
            )
        counters = {k: copy.deepcopy(x) for k, x in state._asdict().items() if k in COUNTERS} if state else {}
        after = optimizer.step(torch.zeros_like(w), copy.deepcopy(state), Parabola(1.0)).state
        if optimizer.preconditioner(after) is not None:
            divisor = optimizer.preconditioner(after).item()
        parabola = Parabola(factor * optimizer.stability_limit(after) * divisor)
        for _ in range(400):
            if counters:
                state = state._replace(**{k: copy.deepcopy(x) for k, x in counters.items()})
            w, state, *_ = optimizer.step(w, state, parabola)
            if w.abs().item() > 1e-10:
                break
        assert (w.abs().item() > 1e-10) == diverges


def test_limits_are_those_of_the_literature():
    momentum = make_option("optimizer", "momentum", lr=0.1, momentum=0.9, dampening=0.5)
    assert momentum.stability_limit(None) == pytest.approx(76)
    assert make_option("optimizer", "nesterov", lr=0.1, momentum=0.9).stability_limit(None) == pytest.approx(38 / 2.8)
    assert make_option("optimizer", "adam", lr=0.1, beta1=0.9).stability_limit(None) == pytest.approx(380)
    nadam = make_option("optimizer", "nadam", lr=0.1, beta1=0.9)
    old = NAdamState(*torch.tensor([0.0, 1.0, 1e7, 0.0]).double().unsqueeze(-1))
    assert nadam.stability_limit(old).item() == pytest.approx(380 / 2.8)


@pytest.mark.long
def test_full_batch_gradient_descent_settles_at_the_edge_of_stability(tmp_path):
    """A tanh network fits a Chebyshev polynomial: its sharpness doubles, then stays within 5% of the limit."""
    x = np.linspace(-1, 1, 40)[:, None]
    np.savez(tmp_path / "chebyshev.npz", x=x, y=np.cos(4 * np.arccos(x)))
    experiment = build_experiment(
        "data=arrays", f"data.path={tmp_path / 'chebyshev.npz'}", "loss=mse", "arch=mlp", "arch.widths=[40,40]",
        "activation=tanh", "init=xavier", "optimizer=sgd", "optimizer.lr=0.1", "batch_size=full", "steps=4000",
        "eval_every=500", "diagnostic=sharpness", "diagnostic.sharpness.every=20", "validation.fraction=0",
        "precision=float64", "device=cpu",
    )  # fmt: skip
    _, (run,) = train_runs(tmp_path / "run", experiment)
    rows = [row for row in read_rows(run) if "sharpness/limit" in row]
    assert {round(row["sharpness/limit"], 9) for row in rows} == {20.0}
    values = [row["sharpness/lambda_max"] for row in rows]
    assert values[0] < 11
    assert statistics.mean(values[100:]) == pytest.approx(20, rel=0.05)

"""Diagonal preconditioners: preconditioned and adahessian against dense twins, exact cases, and refusals."""

import math

import pytest
import torch
from helpers import assert_build_refused, build_blobs, make_option
from objectives import DROPOUT, KEYS, LANE_KEY, draw_data, make_problem
from test_optimizers import P, Quadratic, Quartic, draw_start, run

from dlopt import prng
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.optimizer.adahessian import AdaHessian
from dlopt.optimizer.preconditioned import Preconditioned

EIGHT = [1.0, 10.0, 0.1, 4.0, 2.0, 3.0, 0.5, 100.0]


class Separable(Quadratic):
    """A quadratic with a diagonal Hessian."""

    def __init__(self, diagonal):
        super().__init__()
        self.a = torch.diag(torch.tensor(diagonal, dtype=torch.float64))


def draw_signs(key, probe, size):
    return prng.rademacher(prng.fold_in(key, probe), (size,)).double()


@pytest.mark.parametrize("curvature", ["hutchinson", EIGHT])
def test_one_step_reaches_the_minimum_of_a_quadratic_with_a_diagonal_hessian(curvature):
    w, _ = run(Preconditioned(1.0, curvature, 0.0, 1, 1), Separable(EIGHT), draw_start(), 1)
    torch.testing.assert_close(w, torch.zeros_like(w), rtol=0, atol=1e-12)


def test_negative_curvatures_lead_downhill():
    w, values = run(Preconditioned(0.5, "hutchinson", 0.1, 1, 1), Separable([-1.0] * P), draw_start(), 3)
    torch.testing.assert_close(w, draw_start() * (1 + 0.5 / 1.1) ** 3)
    assert (values.diff() < 0).all()


def test_steps_use_the_latest_estimate_of_several_products():
    """On a function with another curvature at each point; the key of its oracle is the same at each step."""
    objective, w = Quartic(), draw_start()
    rule = Preconditioned(0.1, "hutchinson", 0.2, 3, 4)
    found, _ = run(rule, objective, w, 7)
    signs = [draw_signs(prng.key(0, "preconditioned"), i, P) for i in range(4)]
    for t in range(7):
        if t % 3 == 0:
            h = objective.hessian(w)
            d = sum(v * (h @ v) for v in signs) / 4
        w = w - 0.1 * (w @ objective.a + w**3) / (d.abs() + 0.2)
    torch.testing.assert_close(found, w)


@pytest.mark.parametrize("lanes", [None, 3])
def test_numbers_for_patterns_divide_the_gradients_of_matching_parameters(lanes):
    problem, w = make_problem(lanes=lanes)
    objective = MiniBatchObjective(problem, *draw_data(lanes=lanes), LANE_KEY if lanes else KEYS[0])
    rule = Preconditioned(0.5, {"hidden.*": 10.0, "*.bias": 4.0}, 9.0, 1, 1)
    rule.check(w, problem.layout)
    g = objective.gradient(w)[1].clone()
    found = rule.step(w.clone(), rule.init(w, problem.layout), objective).w
    for p in problem.layout:
        number = 4.0 if p.name.endswith("bias") else 10.0 if p.name.startswith("hidden") else 1.0
        torch.testing.assert_close(found[..., p.slice], w[..., p.slice] - 0.5 * g[..., p.slice] / number)


def take_paper_steps(rule, problem, w, kernels):
    """Return w after steps of AdaHessian's algorithm 1, with sums instead of running averages and dense Hessians."""
    gradients, diagonals = [], []
    for step, key in enumerate(KEYS):
        objective = MiniBatchObjective(problem, *draw_data("cnn"), key)
        gradients.append(objective.gradient(w)[1].clone())
        if step % rule.update_every == 0:
            z = draw_signs(prng.fold_in(key, "adahessian"), 0, len(w))
            d = z * (objective.hessian(w) @ z)
            for start, size, length in kernels:  # equation 10
                for i in range(start, start + size, length):
                    d[i : i + length] = d[i : i + length].mean()
            diagonals.append(d)
        t, s = len(gradients), len(diagonals)
        m = (1 - rule.beta1) * sum(rule.beta1 ** (t - i) * g for i, g in enumerate(gradients, 1))
        v = (1 - rule.beta2) * sum(rule.beta2 ** (s - i) * d * d for i, d in enumerate(diagonals, 1))
        scale = (v / (1 - rule.beta2**s)).sqrt() ** rule.hessian_power
        w = w - rule.lr * m / (1 - rule.beta1**t) / (scale + rule.eps)
    return w


@pytest.mark.parametrize("update_every", [1, 2])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_adahessian_is_algorithm_1_of_the_paper(power, update_every):
    """On a convolutional network with dropout; its kernels have 3 and 2 positions."""
    problem, w = make_problem("cnn", rules=(DROPOUT,))
    rule = AdaHessian(0.1, 0.8, 0.9, 0.05, power, update_every)
    kernels = [(p.start, p.size, p.shape[2]) for p in problem.layout if len(p.shape) == 3]
    assert [k[2] for k in kernels] == [3, 2]
    expected = take_paper_steps(rule, problem, w.clone(), kernels)
    at, state = w.clone(), rule.init(w, problem.layout)
    for key in KEYS:
        at, state, *_ = rule.step(at, state, MiniBatchObjective(problem, *draw_data("cnn"), key))
    torch.testing.assert_close(at, expected)


def test_adahessian_with_power_zero_is_gradient_descent_with_an_average_of_gradients():
    w, m = draw_start(), torch.zeros(P, dtype=torch.float64)
    found, _ = run(AdaHessian(0.1, 0.9, 0.999, 1e-4, 0.0, 1), Quadratic(), w, 5)
    for t in range(1, 6):
        m = 0.9 * m + 0.1 * w @ Quadratic().a
        w = w - 0.1 * m / (1 - 0.9**t) / (1 + 1e-4)
    torch.testing.assert_close(found, w)


@pytest.mark.parametrize("name", ["preconditioned", "adahessian"])
def test_each_lane_draws_vectors_of_its_own(name):
    rule = make_option("optimizer", name)
    lanes, w = make_problem("cnn", lanes=3)
    x, y = draw_data("cnn", lanes=3)
    together = rule.step(w.clone(), rule.init(w, lanes.layout), MiniBatchObjective(lanes, x, y, LANE_KEY)).w
    for i in range(3):
        problem, at = make_problem("cnn", w=w[i])
        state = rule.init(at, problem.layout)
        alone = rule.step(at.clone(), state, MiniBatchObjective(problem, x[i], y[i], KEYS[i])).w
        torch.testing.assert_close(together[i], alone)


def test_products_are_only_asked_for_when_an_estimate_is_due():
    class Counted(Quadratic):
        products = 0

        def hvp(self, w, v):
            Counted.products += 1
            return super().hvp(w, v)

    for rule, expected in (
        (Preconditioned(0.1, "hutchinson", 0.1, 4, 3), 3 * 3),
        (Preconditioned(0.1, EIGHT, 0.1, 4, 3), 0),
        (AdaHessian(0.1, 0.9, 0.999, 1e-4, 1.0, 4), 3),
    ):
        Counted.products = 0
        run(rule, Counted(), draw_start(), 10)
        assert Counted.products == expected == math.ceil(10 / 4) * (expected // 3)


BLOBS = ("optimizer=preconditioned",)
REFUSED = {
    "a list of another length": ("optimizer.curvature=[1,2]", "optimizer", "must have 67 numbers, one for each weight"),
    "a pattern without a parameter": (
        "optimizer.curvature={conv*: 2}",
        "optimizer",
        "no parameter matches curvature.conv*",
    ),
    "a number out of range": ("optimizer.curvature={*: 0}", "optimizer.curvature", "keys, each with a number > 0"),
    "a word": ("optimizer.curvature=exact", "optimizer.curvature", "must be hutchinson or a list"),
    "clipping": ("clip.norm=1", "clip.norm", "changes gradients"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_preconditioner_that_does_not_fit_is_refused(name):
    override, key, words = REFUSED[name]
    assert_build_refused(lambda: build_blobs(*BLOBS, override), key, words)


def test_a_fixed_preconditioner_may_be_typed_and_stands_beside_clipping():
    experiment = build_blobs(*BLOBS, "optimizer.curvature={hidden.*: 10, *: 2}", "clip.norm=1")
    assert experiment.optimizer.curvature == {"hidden.*": 10, "*": 2}

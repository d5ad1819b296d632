"""Newton's method, Gauss-Newton and saddle-free Newton: one step on quadratics, saddles, dense twins, and Levenberg-Marquardt."""

import pytest
import torch
from helpers import build_blobs, make_option
from objectives import KEYS, LANE_KEY, STRENGTH, draw_data, make_problem
from test_optimizers import P, Quadratic, Quartic, draw_start, run
from torch import nn

from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer._levenberg_marquardt import DampingState
from dlopt.optimizer.gauss_newton import GaussNewton
from dlopt.optimizer.newton import Newton
from dlopt.optimizer.saddle_free_newton import SaddleFreeNewton
from dlopt.regularization.l2 import L2
from dlopt.storage import memory


def newton(solver="dense", damping=0.0, lr=1.0, tolerance=1e-12, max_iter=100, adapt="none", factor=2.0):
    return Newton(lr, damping, tolerance, max_iter, adapt, factor, solver)


def gauss_newton(damping=0.0, lr=1.0, adapt="none", factor=2.0):
    return GaussNewton(lr, damping, 1e-12, 100, adapt, factor)


EXACT = {
    "newton, dense": newton(),
    "newton, cg": newton("cg"),
    "gauss_newton": gauss_newton(),
    "saddle-free, dense": SaddleFreeNewton(1.0, 0.0, "dense", 1),
    "saddle-free, lanczos": SaddleFreeNewton(1.0, 0.0, "lanczos", P),
}
INDEFINITE = torch.tensor([-2.0, -0.7, -0.1, 0.3, 0.9, 1.5, 4.0, 9.0])


@pytest.mark.parametrize("name", EXACT)
def test_one_step_reaches_the_minimum_of_a_quadratic(name):
    w, _ = run(EXACT[name], Quadratic(torch.linspace(0.01, 100.0, P)), draw_start(), 1)
    torch.testing.assert_close(w, torch.zeros_like(w), rtol=0, atol=1e-7)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_steps_are_those_of_the_dense_formulas(damping, lead):
    """Of an indefinite Hessian, by its inverse and by its eigenvectors."""
    objective, w = Quadratic(INDEFINITE), draw_start(lead)
    h, g = objective.a, w @ objective.a
    values, vectors = torch.linalg.eigh(h)
    expected = w - 0.5 * g @ torch.linalg.inv(h + damping * torch.eye(P).double())
    absolute = vectors @ torch.diag(1 / (values.abs() + damping)) @ vectors.T
    torch.testing.assert_close(run(newton(damping=damping, lr=0.5), objective, w, 1)[0], expected)
    for solver in ("dense", "lanczos"):
        found, _ = run(SaddleFreeNewton(0.5, damping, solver, P), objective, w, 1)
        torch.testing.assert_close(found, w - 0.5 * g @ absolute, rtol=1e-6, atol=1e-7)


def test_in_a_subspace_it_is_the_step_between_projections():
    """On the Krylov space of g, spanned here by powers of H and made orthonormal by QR."""
    objective, w, k = Quadratic(INDEFINITE), draw_start(), 3
    h, g = objective.a, w @ objective.a
    q = torch.linalg.qr(torch.stack([g, h @ g, h @ h @ g], 1))[0]
    values, vectors = torch.linalg.eigh(q.T @ h @ q)
    inverse = vectors @ torch.diag(1 / (values.abs() + 0.2)) @ vectors.T
    found, _ = run(SaddleFreeNewton(1.0, 0.2, "lanczos", k), objective, w, 1)
    torch.testing.assert_close(found, w - q @ inverse @ q.T @ g, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("lanes", [None, 3])
def test_a_gauss_newton_step_of_a_network_is_that_of_its_dense_matrix(lanes):
    """Whose columns are products, and which is not the Hessian."""
    problem, w = make_problem(rules=(L2(STRENGTH),), lanes=lanes)
    objective = MiniBatchObjective(problem, *draw_data(lanes=lanes), LANE_KEY if lanes else KEYS[0])
    eye = torch.eye(w.shape[-1], dtype=w.dtype)
    b = torch.stack([objective.gauss_newton_product(w, e.expand_as(w)) for e in eye], -1)
    assert (b - objective.hessian(w)).abs().max() > 0.01
    g = objective.gradient(w)[1]
    expected = w - 0.5 * torch.linalg.solve(b + 0.2 * eye, g)
    found = gauss_newton(damping=0.2, lr=0.5).step(w.clone(), DampingState(torch.ones_like(w[..., :1])), objective)
    torch.testing.assert_close(found.w, expected)


def test_a_gauss_newton_step_is_newtons_for_a_network_that_is_linear_in_w():
    problem = Problem(nn.Linear(5, 3).double(), CrossEntropy([], None))
    w = torch.randn(problem.layout.size, dtype=torch.float64)
    objective = MiniBatchObjective(problem, *draw_data(), KEYS[0])
    steps = [rule.step(w.clone(), rule.init(w, None), objective).w for rule in (newton(damping=0.1), gauss_newton(0.1))]
    torch.testing.assert_close(*steps)
    assert not torch.equal(steps[0], w)


class Raised(Quadratic):
    """A quadratic far above zero: close to its minimum, its values differ by rounding only."""

    def value(self, w):
        return super().value(w) + 1e3


SAFE = {"damping": 0.5, "adapt": "levenberg_marquardt", "factor": 3.0}


@pytest.mark.parametrize("rule", [newton("dense", **SAFE), gauss_newton(**SAFE)], ids=["newton", "gauss_newton"])
def test_a_minimum_is_reached_beyond_the_rounding_of_values(rule):
    w, _ = run(rule, Raised(), draw_start(), 60)
    assert Raised().gradient(w)[1].norm() < 1e-10


def test_the_factor_of_the_damping_stays_in_bounds_from_which_it_comes_back():
    """Short steps are predicted well, so each divides the damping. From the largest one, it reaches the minimum."""
    rule, objective = newton("dense", **SAFE, lr=1e-3), Quartic()
    state, w = rule.init(draw_start(), objective.layout), 3 * draw_start()
    for _ in range(100):
        w, state, *_ = rule.step(w, state, objective)
    assert state.scale.item() == pytest.approx(1e-10)
    rule, state, w = newton("dense", **SAFE), DampingState(torch.full_like(state.scale, 1e10)), 3 * draw_start()
    for _ in range(100):
        w, state, *_ = rule.step(w, state, objective)
    assert objective.value(w) < 1e-12


class Saddle(Quadratic):
    """(w_1^2 - w_2^2) / 2, and zero curvature in the other directions."""

    def __init__(self):
        super().__init__()
        self.a = torch.diag(torch.tensor([1.0, -1.0] + [0.0] * (P - 2), dtype=torch.float64))


def test_newton_is_drawn_to_a_saddle_which_saddle_free_newton_leaves():
    start = torch.zeros(P, dtype=torch.float64)
    start[:2] = torch.tensor([2.0, 1e-3])
    drawn, _ = run(newton("dense", damping=1e-9), Saddle(), start, 5)
    assert drawn.norm() < 1e-8
    free, values = run(SaddleFreeNewton(1.0, 1e-9, "lanczos", 2), Saddle(), start, 5)
    assert free[1] == pytest.approx(1e-3 * 2**5)
    assert (values.diff() < 0).all()


ADAPTIVE = {"damping": 0.5, "adapt": "levenberg_marquardt", "factor": 3.0, "lr": 2.5}


@pytest.mark.parametrize(
    "rule", [newton("dense", **ADAPTIVE), newton("cg", **ADAPTIVE), gauss_newton(**ADAPTIVE)], ids=["dense", "cg", "gn"]
)
def test_levenberg_marquardt_changes_the_damping_by_the_ratio_of_both_falls(rule):
    """Recomputed from values alone, on a function whose model is wrong far away. Here J' H_L J is all of H."""
    objective, w, scale = Quartic(), 3 * draw_start(), 1.0
    state, scales = rule.init(w, objective.layout), []
    for _ in range(12):
        h = objective.a + torch.diag(3 * w**2)
        g = w @ objective.a + w**3
        step = -2.5 * torch.linalg.solve(h + 0.5 * scale * torch.eye(P).double(), g)
        model = objective.value(w) + g @ step + step @ h @ step / 2
        rho = (objective.value(w) - objective.value(w + step)) / (objective.value(w) - model)
        expected = w + step if objective.value(w + step) < objective.value(w) else w
        result = rule.step(w.clone(), state, objective)
        found, state = result.w, result.state
        assert result.info["damping"].item() == pytest.approx(0.5 * scale)
        scale *= 1 / 3 if rho > 0.75 and expected is not w else 3 if rho < 0.25 or expected is w else 1
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
        assert state.scale.item() == pytest.approx(scale)
        scales.append(scale)
        w = found
    assert max(scales) > 1 or min(scales) < 1


def test_a_step_to_no_finite_value_is_not_taken():
    class Cliff(Quartic):
        def value(self, w):
            return torch.where(w.abs().max() < 2.0, super().value(w), torch.nan)

    w = torch.full((P,), 1.9, dtype=torch.float64)
    rule = newton(adapt="levenberg_marquardt", lr=8.0)
    found, state, *_ = rule.step(w.clone(), rule.init(w, Cliff.layout), Cliff())
    assert torch.equal(found, w)
    assert state.scale.item() == 2.0


def test_a_lane_that_is_not_finite_leaves_the_others():
    w = draw_start((3,))
    w[1] = torch.nan
    for rule in (*EXACT.values(), newton("cg", 0.1, adapt="levenberg_marquardt")):
        found, _ = run(rule, Quartic(), w, 2)
        for i in (0, 2):
            torch.testing.assert_close(found[i], run(rule, Quartic(), w[i], 2)[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "remedy"), [("newton", "optimizer.solver=cg"), ("saddle_free_newton", "optimizer.solver=lanczos")]
)
def test_a_hessian_that_does_not_fit_is_refused_with_the_remedy(name, remedy, monkeypatch):
    monkeypatch.setattr(memory, "get_available", lambda: 10_000_000)
    w = torch.zeros(5_000)
    with pytest.raises(memory.NotEnoughMemoryError, match=rf"the Hessian of 5,000 weights needs .* MB.*; use {remedy}"):
        make_option("optimizer", name, solver="dense").check(w, None)
    make_option("optimizer", name).check(w, None)
    with pytest.raises(
        ValueError, match=rf"the Hessian of 10,001 weights would take 1.6 GB of memory, and minutes .*; use {remedy}"
    ):
        make_option("optimizer", name, solver="dense").check(torch.zeros(10_001), None)


@pytest.mark.parametrize("key", ["clip.norm=1.0", "regularization=gradient_noise"])
@pytest.mark.parametrize(
    "name", ["newton", "gauss_newton", "saddle_free_newton", "sam optimizer@optimizer.base_optimizer=newton"]
)
def test_changed_gradients_are_refused(name, key):
    from dlopt.config.problems import ConfigError

    with pytest.raises(ConfigError, match="changes gradients"):
        build_blobs(*f"optimizer={name}".split(), key)

"""Optimizers with a line search: dense twins, quadratics, recovery, the batches of secant pairs, and refusals."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from helpers import build_blobs, make_option, train_runs
from test_optimizers import P, Quadratic, Quartic, draw_start, run

from dlopt.config.problems import ConfigError
from dlopt.linesearch.armijo import Armijo
from dlopt.linesearch.exact import Exact
from dlopt.linesearch.fixed import Fixed
from dlopt.linesearch.strong_wolfe import StrongWolfe
from dlopt.optimizer.bfgs import BFGS
from dlopt.optimizer.conjugate_gradient import ConjugateGradient
from dlopt.optimizer.lbfgs import LBFGS, apply_inverse
from dlopt.optimizer.steepest_descent import SteepestDescent
from dlopt.storage import memory

BETAS = ("fletcher_reeves", "polak_ribiere_plus", "hestenes_stiefel", "dai_yuan")
EXACT, WOLFE = Exact(1.0, 20), StrongWolfe(1e-4, None, 20)


def update_inverse(h, s, y):
    """Return the product formula of BFGS for one pair: (I - rho s y') H (I - rho y s') + rho s s'."""
    rho, eye = 1 / (s @ y), torch.eye(len(s), dtype=s.dtype)
    left = eye - rho * torch.outer(s, y)
    return left @ h @ left.T + rho * torch.outer(s, s)


def record_pairs(rule, objective, w, steps):
    """Return the pairs of a run, and the last iterate and state."""
    state, pairs = rule.init(w, objective.layout), []
    w = w.clone()
    for _ in range(steps):
        before, (_, g) = w.clone(), objective.gradient(w)
        w, state, *_ = rule.step(w, state, objective)
        pairs.append((w - before, objective.gradient(w)[1] - g))
    return pairs, w, state


@pytest.mark.parametrize("history", [1, 3, 10])
@pytest.mark.parametrize("search", [WOLFE, EXACT], ids=["strong_wolfe", "exact"])
def test_the_two_loops_apply_the_matrix_of_bfgs_from_the_pairs_in_memory(history, search):
    """On a quartic, after more steps than there is memory for."""
    objective = Quartic()
    pairs, w, state = record_pairs(LBFGS(history, 1e-8, search), objective, 3 * draw_start(), 7)
    s, y = pairs[-1]
    h = (s @ y) / (y @ y) * torch.eye(P, dtype=torch.float64)
    for pair in pairs[-history:]:
        h = update_inverse(h, *pair)
    for vector in (objective.gradient(w)[1], draw_start()):
        torch.testing.assert_close(apply_inverse(state, vector), h @ vector, rtol=1e-9, atol=1e-12)


def test_a_pair_without_positive_curvature_is_left_out():
    """A concave quadratic gives none: every direction is that of the gradient. Pairs before it stay."""
    concave = Quadratic(-torch.linspace(0.1, 1.0, P))
    rule = LBFGS(3, 1e-8, Fixed(0.1))
    w, state = draw_start(), rule.init(draw_start(), Quadratic.layout)
    for _ in range(3):
        expected = w - 0.1 * concave.gradient(w)[1]
        w, state, *_ = rule.step(w.clone(), state, concave)
        torch.testing.assert_close(w, expected)
        assert not state.rho.any()
    _, _, state = record_pairs(rule, Quadratic(), draw_start(), 2)
    kept = state.rho.tolist()
    for _ in range(5):
        _, state, *_ = rule.step(draw_start(), state, concave)
        assert state.rho.tolist() == kept


class Broken(Quartic):
    """A quartic whose gradients are not finite for some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def gradient(self, w):
        value, g = super().gradient(w)
        return value, g * torch.nan if len(self.queries) in self.calls else g


def test_it_recovers_from_a_gradient_that_is_not_finite_by_following_the_next_one():
    """The pair that holds it is forgotten with all others; the step along -g is at most of length one."""
    rule, objective = LBFGS(3, 1e-8, WOLFE), Quartic()
    _, w, state = record_pairs(rule, objective, draw_start(), 4)
    broken = Broken([1])
    same, state, *_ = rule.step(w.clone(), state, broken)
    assert torch.equal(same, w)
    assert not state.rho.any()
    assert state.pairs.isfinite().all()
    _, g = objective.gradient(w)
    after, state, *_ = rule.step(w.clone(), state, objective)
    step = after - w
    torch.testing.assert_close(step / step.norm(), -g / g.norm())
    _, values = run_on(rule, state, after, objective, 20)
    assert values[-1] < 1e-9


def run_on(rule, state, w, objective, steps):
    """Return the last iterate and all values."""
    values = [objective.value(w)]
    for _ in range(steps):
        w, state, *_ = rule.step(w, state, objective)
        values.append(objective.value(w))
    return w, values


def test_both_gradients_of_a_pair_are_of_the_batch_of_their_step():
    """Two quadratics in turn, of which each step sees one: y = A s for its own."""
    objectives = [Quadratic(torch.linspace(0.1, 1.0, P)), Quadratic(torch.linspace(3.0, 5.0, P))]
    for search in (WOLFE, EXACT, Armijo(1e-4, 20), Fixed(0.3)):
        rule, w = LBFGS(4, 1e-8, search), draw_start()
        state = rule.init(w, Quadratic.layout)
        for i in range(4):
            w, state, *_ = rule.step(w, state, objectives[i % 2])
        for i in range(4):
            s, y = state.pairs[:, i]
            torch.testing.assert_close(y, s @ objectives[i % 2].a, rtol=1e-7, atol=1e-9)


def test_a_step_reports_its_search():
    rule, objective = LBFGS(3, 1e-8, WOLFE), Quartic()
    w = 5 * draw_start((2,))
    start = w.clone()
    objective.queries.clear()
    step = rule.step(w, rule.init(w, objective.layout), objective)
    assert set(step.info) == {"step_size", "search_evaluations", "search_failed"}
    assert step.info["search_evaluations"].max() == len(objective.queries) - 1
    assert step.info["search_failed"].tolist() == [0, 0]
    torch.testing.assert_close(step.next_gradient, objective.gradient(step.w)[1])
    g = objective.gradient(start)[1]
    torch.testing.assert_close(start - step.info["step_size"].unsqueeze(-1) * g, step.w)
    torch.testing.assert_close(step.gradient, g)


REFUSALS = {
    "a schedule": (["schedule=cosine"], "schedule", "use schedule=constant or optimizer.linesearch=fixed"),
    "a schedule inside": (
        ["optimizer=sam", "optimizer@optimizer.base_optimizer=lbfgs", "schedule=cosine"],
        "schedule",
        "or optimizer.base_optimizer.linesearch=fixed",
    ),
    "weight decay": (["regularization=weight_decay"], "regularization.weight_decay", "or optimizer.linesearch=fixed"),
    "clipping": (["clip.norm=1.0"], "clip.norm", "changes gradients"),
    "noise of gradients": (["regularization=gradient_noise"], "regularization.gradient_noise", "changes gradients"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_line_search_cannot_go_with_is_refused_with_the_remedy(case):
    overrides, key, words = REFUSALS[case]
    with pytest.raises(ConfigError) as refusal:
        build_blobs("optimizer=lbfgs", *overrides)
    ((name, message),) = refusal.value.problems
    assert name == key
    assert words in message


def test_a_schedule_changes_the_step_of_a_fixed_search(tmp_path):
    keys = (
        "optimizer=lbfgs",
        "linesearch@optimizer.linesearch=fixed",
        "optimizer.linesearch.lr=0.5",
        "schedule=linear",
    )
    (_,), (run,) = train_runs(tmp_path, build_blobs(*keys, "log_every=1"))
    rates = [row["lr"] for row in run.rows()]
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1


class Hole(Quartic):
    """A quartic that is defined at one point only."""

    def __init__(self, w):
        super().__init__()
        self.w = w

    def gradient(self, w):
        value, g = super().gradient(w)
        return torch.where((w == self.w).all(-1), value, torch.nan), g


def is_forgotten(rule, state):
    """Return whether a quasi-Newton method would follow -g."""
    return not state.rho.any() if isinstance(rule, LBFGS) else torch.equal(state.h, torch.eye(P).double())


@pytest.mark.parametrize("rule", [LBFGS(3, 1e-8, WOLFE), BFGS(1e-8, WOLFE)], ids=["lbfgs", "bfgs"])
def test_pairs_are_forgotten_after_a_search_that_finds_no_step(rule):
    _, w, state = record_pairs(rule, Quartic(), draw_start(), 3)
    assert not is_forgotten(rule, state)
    step = rule.step(w.clone(), state, Hole(w))
    assert torch.equal(step.w, w)
    assert step.info["search_failed"] == 1
    assert is_forgotten(rule, step.state)


@pytest.mark.parametrize("rule", [LBFGS(3, 1e-8, Fixed(0.1)), BFGS(1e-8, Fixed(0.1))], ids=["lbfgs", "bfgs"])
def test_where_the_direction_is_not_of_descent_pairs_are_forgotten_and_minus_g_is_followed(rule):
    """With the matrix of opposite sign. On a concave function, whose pair is left out, nothing else is remembered."""
    concave = Quadratic(-torch.linspace(0.1, 1.0, P))
    _, w, state = record_pairs(rule, Quadratic(), draw_start(), 3)
    if isinstance(rule, LBFGS):
        state = state._replace(gamma=-state.gamma, rho=state.rho * 1e-9)
    else:
        state.h.neg_()
    step = rule.step(w.clone(), state, concave)
    torch.testing.assert_close(step.w, w - 0.1 * concave.gradient(w)[1])
    assert is_forgotten(rule, step.state)


# ------------------------------------------------------------------------------------------- quadratics


N = 12
CONJUGATE = {
    "bfgs": BFGS(1e-8, EXACT),
    **{f"lbfgs, {m}": LBFGS(m, 1e-8, EXACT) for m in (1, 2, 5, 12)},
    **{beta: ConjugateGradient(beta, None, None, EXACT) for beta in BETAS},
}
"""Methods that take the same steps on a quadratic."""


class Bowl:
    """A quadratic of 12 weights with condition number 20 and a minimum away from zero."""

    def __init__(self):
        torch.manual_seed(1)
        rotation = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64))[0]
        self.a = rotation @ torch.diag(torch.linspace(1.0, 20.0, N).double()) @ rotation.T
        self.minimum = torch.randn(N, dtype=torch.float64)

    def gradient(self, w):
        g = (w - self.minimum) @ self.a
        return 0.5 * ((w - self.minimum) * g).sum(-1), g

    def hvp(self, w, v):
        return v @ self.a


def iterate(rule, objective, w, steps):
    """Return all iterates."""
    state, iterates = rule.init(w, None), [w.clone()]
    for _ in range(steps):
        w, state, *_ = rule.step(w.clone(), state, objective)
        iterates.append(w.clone())
    return torch.stack(iterates)


def solve_by_linear_cg(a, b, x, steps):
    """Return the iterates of the linear method for a x = b: Nocedal and Wright, algorithm 5.2."""
    r = a @ x - b
    p, iterates = -r, [x]
    for _ in range(steps):
        alpha = (r @ r) / (p @ a @ p)
        x = x + alpha * p
        new = r + alpha * a @ p
        p, r = -new + (new @ new) / (r @ r) * p, new
        iterates.append(x)
    return torch.stack(iterates)


@pytest.mark.parametrize("name", CONJUGATE)
def test_with_exact_searches_all_agree_on_a_quadratic_and_end_after_n_steps(name):
    bowl, start = Bowl(), torch.zeros(N, dtype=torch.float64)
    expected = solve_by_linear_cg(bowl.a, bowl.a @ bowl.minimum, start, N)
    found = iterate(CONJUGATE[name], bowl, start, N)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(found[-1], bowl.minimum, rtol=0, atol=1e-8)
    assert (found[-3] - bowl.minimum).norm() > 1e-6


def test_an_exact_step_of_steepest_descent_is_the_optimal_one():
    """alpha = g'g / g'Ag; successive gradients are orthogonal; f - f* falls at least by the bound of Kantorovich."""
    bowl = Bowl()
    w = torch.zeros(N, dtype=torch.float64)
    iterates = iterate(SteepestDescent(EXACT), bowl, w, 20)
    values, gradients = bowl.gradient(iterates)
    for before, g, after in zip(iterates, gradients, iterates[1:], strict=False):
        torch.testing.assert_close(after, before - (g @ g) / (g @ bowl.a @ g) * g)
    for g, after in pairwise(gradients):
        assert abs(g @ after) <= 1e-9 * g.norm() * after.norm()
    assert (values[1:] <= values[:-1] * (19 / 21) ** 2 * (1 + 1e-9)).all()
    assert values[-1] > 1e-9


# ------------------------------------------------------------------------------------------- bfgs and conjugate_gradient


@pytest.mark.parametrize("search", [WOLFE, EXACT], ids=["strong_wolfe", "exact"])
def test_the_matrix_of_bfgs_is_that_of_the_product_formula(search):
    objective = Quartic()
    pairs, _, state = record_pairs(BFGS(1e-8, search), objective, 3 * draw_start(), 6)
    s, y = pairs[0]
    h = (s @ y) / (y @ y) * torch.eye(P, dtype=torch.float64)
    for pair in pairs:
        h = update_inverse(h, *pair)
    torch.testing.assert_close(state.h, h, rtol=1e-9, atol=1e-11)


def test_bfgs_and_lbfgs_with_enough_memory_differ_by_the_first_scale_only():
    """On the first two steps, where both have had the same scale."""
    objective, w = Quartic(), 3 * draw_start()
    for steps in (1, 2):
        dense, _ = run(BFGS(1e-8, WOLFE), objective, w, steps)
        torch.testing.assert_close(run(LBFGS(5, 1e-8, WOLFE), objective, w, steps)[0], dense)


def test_bfgs_restarts_from_the_identity_after_a_gradient_that_is_not_finite():
    objective, lanes = Quartic(), draw_start((2,))
    rule = BFGS(1e-8, WOLFE)
    _, w, state = record_pairs(rule, objective, lanes, 4)

    class HalfBroken(Quartic):
        def gradient(self, w):
            value, g = super().gradient(w)
            g[0] *= torch.nan
            return value, g

    after, state, *_ = rule.step(w.clone(), state, HalfBroken())
    assert torch.equal(after[0], w[0])
    assert torch.equal(state.h[0], torch.eye(P).double())
    assert state.fresh.tolist() == [[1.0], [0.0]]
    assert not torch.equal(after[1], w[1])


def test_too_many_weights_for_bfgs_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(memory, "get_available", lambda: 10_000_000)
    words = "the inverse Hessian of 5,000 weights needs .* MB.*; use optimizer=lbfgs"
    with pytest.raises(memory.NotEnoughMemoryError, match=words):
        make_option("optimizer", "bfgs").check(torch.zeros(5_000), None)
    make_option("optimizer", "bfgs").check(torch.zeros(500), None)


@pytest.mark.parametrize("beta", BETAS)
def test_directions_are_those_of_the_formulas(beta):
    """Recomputed from iterates and gradients alone."""
    objective, w = Quartic(), 2 * draw_start()
    iterates = iterate(ConjugateGradient(beta, None, None, StrongWolfe(1e-4, 0.01, 40)), objective, w, 6)
    gradients = objective.gradient(iterates)[1]
    d = -gradients[0]
    for g, new, step in zip(gradients, gradients[1:], iterates.diff(dim=0), strict=False):
        torch.testing.assert_close(step / step.norm(), d / d.norm(), rtol=1e-6, atol=1e-8)
        y = new - g
        factor = {
            "fletcher_reeves": (new @ new) / (g @ g),
            "polak_ribiere_plus": max(0, (new @ y) / (g @ g)),
            "hestenes_stiefel": (new @ y) / (d @ y),
            "dai_yuan": (new @ new) / (d @ y),
        }[beta]
        d = -new + factor * d


@pytest.mark.parametrize(
    ("orthogonality", "every", "restarts"), [(1e-9, None, 3), (None, 1, 3), (None, 2, 1), (None, None, 0)]
)
def test_conjugate_gradients_restart_along_the_gradient(orthogonality, every, restarts):
    objective, w = Quartic(), 2 * draw_start()
    rule = ConjugateGradient("fletcher_reeves", orthogonality, every, StrongWolfe(1e-4, 0.1, 40))
    iterates = iterate(rule, objective, w, 4)
    along = [
        torch.allclose(s / s.norm(), -g / g.norm())
        for s, g in zip(iterates.diff(dim=0)[1:], objective.gradient(iterates)[1][1:], strict=False)
    ]
    assert sum(along) == restarts


@pytest.mark.parametrize("name", ["steepest_descent", "conjugate_gradient"])
def test_the_first_trial_repeats_the_fall_of_the_step_before(name):
    """By the parabola with the slope at the start: 2.02 (f_before - f) / g'g along -g."""
    objective, w = Quartic(), 0.1 * draw_start()
    rule = dataclasses.replace(make_option("optimizer", name), linesearch=StrongWolfe(1e-4, 0.1, 40))
    rule = dataclasses.replace(rule, restart_every=1) if name == "conjugate_gradient" else rule
    first, state, *_ = rule.step(w.clone(), rule.init(w, None), objective)
    fall = objective.value(w) - objective.value(first)
    objective.queries.clear()
    rule.step(first.clone(), state, objective)
    start, trial = objective.queries[:2]
    g = objective.gradient(start)[1]
    longest = 1.0 if name == "conjugate_gradient" else torch.inf
    torch.testing.assert_close(start - trial, min(2.02 * fall / (g @ g), longest) * g)

"""Optimizers with a line search: dense twins, quadratics, recovery, the batches of secant pairs, and refusals."""

import pytest
import torch
from helpers import build_blobs, train_runs
from test_optimizers import P, Quadratic, Quartic, draw_start

from dlopt.config.problems import ConfigError
from dlopt.linesearch.armijo import Armijo
from dlopt.linesearch.exact import Exact
from dlopt.linesearch.fixed import Fixed
from dlopt.linesearch.strong_wolfe import StrongWolfe
from dlopt.optimizer.lbfgs import LBFGS, apply_inverse

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
    kept = state.rho.clone()
    _, state, *_ = rule.step(draw_start(), state, concave)
    assert state.rho.tolist() == [*kept.tolist()[:2], 0.0]


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

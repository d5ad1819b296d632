"""The L1 penalty and its proximal step: values, gradients, and the soft threshold of theory."""

import pytest
import torch
from helpers import build_blobs, load_weights, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.sgd import SGD
from dlopt.regularization.l1 import L1

NET = nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)).double()
LAYOUT = Layout.of(NET)


def soft(x, threshold):
    """sign(x) max(0, |x| - threshold), for single numbers."""
    return max(0.0, x - threshold) if x > 0 else min(0.0, x + threshold)


# ------------------------------------------------------------------------------------------- the penalty


@pytest.mark.parametrize("strength", [0.0, 1e-4, 3.0])
def test_it_is_the_strength_times_the_absolute_values_of_matrices(strength):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    pieces = LAYOUT.views(w)
    expected = strength * (pieces["0.weight"].abs().sum() + pieces["2.weight"].abs().sum())
    torch.testing.assert_close(L1(strength, False).penalty(w, LAYOUT), expected)


def test_its_gradient_is_the_strength_times_the_sign_and_zero_at_zero_and_elsewhere():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    w[:3] = 0.0
    w.requires_grad_()
    (g,) = torch.autograd.grad(L1(0.3, False).penalty(w, LAYOUT), w)
    for p in LAYOUT:
        expected = 0.3 * w[p.slice].sign() if p.kind == "weight" else torch.zeros(p.size, dtype=torch.float64)
        torch.testing.assert_close(g[p.slice], expected.detach())


def test_strength_may_be_a_tensor_of_each_lane():
    w = torch.randn(3, LAYOUT.size, dtype=torch.float64)
    strengths = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    together = torch.vmap(lambda w, s: L1(s, False).penalty(w, LAYOUT))(w, strengths)
    alone = [L1(s, False).penalty(w[i], LAYOUT) for i, s in enumerate(strengths.tolist())]
    torch.testing.assert_close(together, torch.stack(alone))


# ------------------------------------------------------------------------------------------- the proximal step


def test_the_step_is_the_soft_threshold_of_weights_and_leaves_the_rest():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    before = torch.full_like(w, torch.nan)  # which it does not look at
    shrunk = L1(2.0, True).after(w.clone(), before, 0.1, LAYOUT)
    for p in LAYOUT:
        threshold = 0.1 * 2.0 if p.kind == "weight" else 0.0
        expected = torch.tensor([soft(x, threshold) for x in w[p.slice].tolist()], dtype=torch.float64)
        torch.testing.assert_close(shrunk[p.slice], expected, rtol=1e-14, atol=1e-16)
        assert torch.equal(shrunk[p.slice] == 0, expected == 0)
    assert (shrunk == 0).any()


@pytest.mark.parametrize("columns", ["lr", "strength", "both"])
def test_lanes_with_rates_and_strengths_of_their_own_equal_runs_alone(columns):
    w = torch.randn(3, LAYOUT.size, dtype=torch.float64)
    rates = [0.1, 0.2, 0.3] if columns != "strength" else [0.1] * 3
    strengths = [0.0, 0.5, 3.0] if columns != "lr" else [0.5] * 3
    lr, strength = (
        torch.tensor(values, dtype=torch.float64).unsqueeze(-1) if len(set(values)) > 1 else values[0]
        for values in (rates, strengths)
    )
    together = L1(strength, True).after(w.clone(), w, lr, LAYOUT)
    for i in range(3):
        alone = L1(strengths[i], True).after(w[i].clone(), w[i], rates[i], LAYOUT)
        torch.testing.assert_close(together[i], alone, rtol=1e-14, atol=1e-16)


def test_it_works_in_the_objective_or_after_the_step_and_never_in_both():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    assert L1(1.0, True).penalty(w, LAYOUT) is None
    assert torch.equal(L1(1.0, False).after(w.clone(), w, 0.1, LAYOUT), w)
    assert L1(1.0, True).needs_lr
    assert not L1(1.0, False).needs_lr


# ------------------------------------------------------------------------------------------- theory


class Diagonal:
    """f(w) = sum of h_i (w_i - m_i)^2 / 2."""

    layout = Layout.of(nn.Linear(6, 1, bias=False))
    h = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    m = torch.tensor([3.0, -0.2, 0.1, -0.9, -2.0, 50.0], dtype=torch.float64)

    def gradient(self, w):
        return 0.5 * (self.h * (w - self.m).square()).sum(), self.h * (w - self.m)


def fixed_point(rule, l1, steps=2000):
    objective, w = Diagonal(), torch.ones(6, dtype=torch.float64)
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        w, state, *_ = rule.step(w, state, objective)
        w = l1.after(w, w, rule.lr, objective.layout)
    return w


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_proximal_descent_ends_at_the_soft_threshold_with_true_zeros(strength):
    """Goodfellow, Bengio and Courville 2016, equation 7.23; large weights shrink by strength / h_i as well."""
    found = fixed_point(SGD(0.1), L1(strength, True))
    expected = [soft(m, strength / h) for m, h in zip(Diagonal.m.tolist(), Diagonal.h.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert [x == 0 for x in found.tolist()] == [x == 0 for x in expected]
    assert (0.0 in expected) is (strength > 0)


def test_with_momentum_it_ends_where_a_weaker_penalty_would():
    """The velocity grows to 1 / (1 - b) times the gradient, the threshold does not."""
    found = fixed_point(HeavyBall(0.01, 0.75, 0.0), L1(2.0, True), 8000)
    expected = [soft(m, 0.25 * 2.0 / h) for m, h in zip(Diagonal.m.tolist(), Diagonal.h.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_subgradient_steps_come_near_and_make_no_zeros():
    objective, l1, w = Diagonal(), L1(1.0, False), torch.ones(6, dtype=torch.float64)
    for _ in range(2000):
        leaf = w.clone().requires_grad_()
        (subgradient,) = torch.autograd.grad(l1.penalty(leaf, objective.layout), leaf)
        w = w - 0.01 * (objective.gradient(w)[1] + subgradient)
    assert w.all()
    torch.testing.assert_close(w, fixed_point(SGD(0.1), L1(1.0, True)), rtol=0, atol=0.02)


# ------------------------------------------------------------------------------------------- in training

PROXIMAL = ("regularization=l1", "regularization.l1.proximal=true", "precision=float64")


def test_a_trained_net_has_true_zeros_among_its_weights_alone(tmp_path):
    strong = (*PROXIMAL, "regularization.l1.strength=0.05", "optimizer=sgd", "epochs=30")
    _, (run,) = train_runs(tmp_path, build_blobs(*strong))
    model = run.load("last")["model"]
    assert (model["hidden.0.weight"] == 0).any()
    assert (model["hidden.0.weight"] != 0).any()
    assert all(v.all() for name, v in model.items() if name.endswith("bias"))


def test_lanes_of_several_strengths_and_rates_equal_runs_alone(tmp_path):
    own = [
        (*PROXIMAL, f"regularization.l1.strength={s}", f"optimizer.lr={lr}", "schedule=cosine")
        for s, lr in ((0.0, 0.01), (0.1, 0.02), (0.5, 0.03))
    ]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*o) for o in own))
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", build_blobs(*own[i]))
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)


def test_lanes_agree_in_where_it_works(tmp_path):
    with pytest.raises(ValueError, match="proximal"):
        train_runs(tmp_path, build_blobs(*PROXIMAL), build_blobs("regularization=l1", "precision=float64"))

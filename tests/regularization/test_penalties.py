"""L1, L2 and elastic net: values, gradients, proximal steps, and the minima of theory."""

import pytest
import torch
from helpers import build_blobs, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.sgd import SGD
from dlopt.regularization.elastic_net import ElasticNet
from dlopt.regularization.l1 import L1
from dlopt.regularization.l2 import L2

LAYOUT = Layout.of(nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)))


def draw_weights(*lead):
    return torch.randn(*lead, LAYOUT.size, dtype=torch.float64)


def threshold(x, t):
    """Return sign(x) max(0, |x| - t) for a number."""
    return max(0.0, x - t) if x > 0 else min(0.0, x + t)


# ------------------------------------------------------------------------------------------- in the objective

PENALTIES = {
    "l1": (lambda s: L1(s, False), lambda w: w.abs(), torch.sign),
    "l2": (L2, lambda w: w.square() / 2, lambda w: w),
    "elastic_net": (
        lambda s: ElasticNet(s, 0.3 * s, False),
        lambda w: w.abs() + 0.15 * w**2,
        lambda w: w.sign() + 0.3 * w,
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("strength", [0.0, 3.0])
def test_a_penalty_and_its_gradient_are_the_formula_over_weights(name, strength):
    """The subgradient of L1 at zero is zero."""
    make, value, derivative = PENALTIES[name]
    w = draw_weights()
    w[:3] = 0.0
    pieces = LAYOUT.views(w)
    penalty = make(strength).penalty(w.requires_grad_(), LAYOUT)
    expected = strength * (value(pieces["0.weight"]).sum() + value(pieces["2.weight"]).sum())
    torch.testing.assert_close(penalty, expected)
    (g,) = torch.autograd.grad(penalty, w)
    for p in LAYOUT:
        x = w[p.slice].detach()
        torch.testing.assert_close(g[p.slice], strength * derivative(x) if p.kind == "weight" else torch.zeros_like(x))


@pytest.mark.parametrize("name", PENALTIES)
def test_strength_may_be_a_tensor_of_each_lane(name):
    make, *_ = PENALTIES[name]
    w, strengths = draw_weights(3), torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    together = torch.vmap(lambda w, s: make(s).penalty(w, LAYOUT))(w, strengths)
    alone = [make(s).penalty(w[i], LAYOUT) for i, s in enumerate(strengths.tolist())]
    torch.testing.assert_close(together, torch.stack(alone))


def test_networks_of_one_size_and_other_shapes_are_told_apart():
    one, other = Layout.of(nn.Linear(5, 1)), Layout.of(nn.Linear(2, 2))
    assert one.size == other.size
    w = torch.ones(one.size)
    assert L2(2.0).penalty(w, one) == 5
    assert L2(2.0).penalty(w, other) == 4


def test_l2_shrinks_each_eigendirection_of_a_quadratic_by_l_over_l_plus_strength():
    """Goodfellow, Bengio and Courville 2016, equation 7.13."""
    layout = Layout.of(nn.Linear(4, 1, bias=False))
    eigenvalues, best, strength = torch.tensor([0.1, 0.5, 1.0, 4.0]).double(), torch.ones(4).double(), 0.7
    w = torch.zeros(4, dtype=torch.float64)
    for _ in range(150):
        leaf = w.clone().requires_grad_()
        loss = 0.5 * (eigenvalues * (leaf - best).square()).sum() + L2(strength).penalty(leaf, layout)
        w = w - 0.2 * torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(w, eigenvalues / (eigenvalues + strength) * best)


# ------------------------------------------------------------------------------------------- after the step


@pytest.mark.parametrize("make", [lambda p: L1(1.0, p), lambda p: ElasticNet(1.0, 1.0, p)])
def test_a_penalty_acts_in_the_objective_or_after_the_step_and_never_in_both(make):
    w = draw_weights()
    assert make(True).penalty(w, LAYOUT) is None
    assert torch.equal(make(False).after(w.clone(), w, 0.1, LAYOUT), w)
    assert make(True).needs_lr
    assert not make(False).needs_lr


def test_the_step_of_l1_is_the_soft_threshold_of_weights_only():
    w = draw_weights()
    before = torch.full_like(w, torch.nan)  # not used
    shrunk = L1(2.0, True).after(w.clone(), before, 0.1, LAYOUT)
    for p in LAYOUT:
        t = 0.1 * 2.0 if p.kind == "weight" else 0.0
        expected = torch.tensor([threshold(x, t) for x in w[p.slice].tolist()], dtype=torch.float64)
        torch.testing.assert_close(shrunk[p.slice], expected, rtol=1e-14, atol=1e-16)
        assert torch.equal(shrunk[p.slice] == 0, expected == 0)
    assert (shrunk == 0).any()
    torch.testing.assert_close(ElasticNet(2.0, 0.0, True).after(w.clone(), w, 0.1, LAYOUT), shrunk)


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.7), (0.5, 2.0)])
def test_the_step_of_the_elastic_net_is_the_nearest_point_with_the_penalty_added(l1, l2):
    """min_v (v - w)^2 / 2 + lr (l1 |v| + l2 v^2 / 2): the subgradient at the result contains zero."""
    w, lr = draw_weights(), 0.7
    v = ElasticNet(l1, l2, True).after(w.clone(), w, lr, LAYOUT)
    for p in LAYOUT:
        for before, after in zip(w[p.slice].tolist(), v[p.slice].tolist(), strict=True):
            smooth = after - before + lr * l2 * after
            if p.kind != "weight":
                assert after == before
            elif after == 0:
                assert abs(smooth) <= lr * l1
            else:
                assert smooth + lr * l1 * (1 if after > 0 else -1) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("columns", ["lr", "strength", "both"])
def test_lanes_with_rates_and_strengths_of_their_own_equal_runs_alone(columns):
    w = draw_weights(3)
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


class Diagonal:
    """f(w) = sum of h_i (w_i - m_i)^2 / 2."""

    layout = Layout.of(nn.Linear(6, 1, bias=False))
    h = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    m = torch.tensor([3.0, -0.2, 0.1, -0.9, -2.0, 50.0], dtype=torch.float64)

    def gradient(self, w):
        return 0.5 * (self.h * (w - self.m).square()).sum(), self.h * (w - self.m)


def find_fixed_point(rule, regularization, steps=600):
    objective, w = Diagonal(), torch.ones(6, dtype=torch.float64)
    state = rule.init(w, objective.layout) if isinstance(rule, HeavyBall) else ()
    for _ in range(steps):
        w, state, *_ = rule.step(w, state, objective)
        w = regularization.after(w, w, rule.lr, objective.layout)
    return w


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.5), (1.0, 2.0)])
def test_proximal_descent_ends_at_the_minimum_with_exact_zeros(l1, l2):
    """Goodfellow, Bengio and Courville 2016, equation 7.23, where l2 = 0; large weights shrink as well."""
    w = find_fixed_point(SGD(0.1), ElasticNet(l1, l2, True))
    expected = [threshold(h * m, l1) / (h + l2) for m, h in zip(Diagonal.m.tolist(), Diagonal.h.tolist(), strict=True)]
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64))
    assert [x == 0 for x in w.tolist()] == [x == 0 for x in expected]
    assert (0.0 in expected) is (l1 > 0)
    if l2 == 0:
        torch.testing.assert_close(find_fixed_point(SGD(0.1), L1(l1, True)), w)


def test_with_momentum_l1_ends_where_a_weaker_penalty_would():
    """The velocity grows to 1 / (1 - b) times the gradient, the threshold does not."""
    w = find_fixed_point(HeavyBall(0.01, 0.75, 0.0), L1(2.0, True), 1500)
    expected = [threshold(m, 0.25 * 2.0 / h) for m, h in zip(Diagonal.m.tolist(), Diagonal.h.tolist(), strict=True)]
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64))


def test_subgradient_steps_come_near_and_make_no_zeros():
    objective, l1, w = Diagonal(), L1(1.0, False), torch.ones(6, dtype=torch.float64)
    for _ in range(1200):
        leaf = w.clone().requires_grad_()
        (subgradient,) = torch.autograd.grad(l1.penalty(leaf, objective.layout), leaf)
        w = w - 0.01 * (objective.gradient(w)[1] + subgradient)
    assert w.all()
    torch.testing.assert_close(w, find_fixed_point(SGD(0.1), L1(1.0, True)), rtol=0, atol=0.02)


PROXIMAL = ("regularization=l1", "regularization.l1.proximal=true", "precision=float64")


def test_a_trained_network_has_exact_zeros_among_its_weights_only(tmp_path):
    strong = (*PROXIMAL, "regularization.l1.strength=0.05", "optimizer=sgd", "epochs=30")
    _, (run,) = train_runs(tmp_path, build_blobs(*strong))
    model = run.load("last")["model"]
    assert (model["hidden.0.weight"] == 0).any()
    assert (model["hidden.0.weight"] != 0).any()
    assert all(v.all() for name, v in model.items() if name.endswith("bias"))


def test_lanes_must_agree_in_proximal(tmp_path):
    with pytest.raises(ValueError, match="proximal"):
        train_runs(tmp_path, build_blobs(*PROXIMAL), build_blobs("regularization=l1", "precision=float64"))

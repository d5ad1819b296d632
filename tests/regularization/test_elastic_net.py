"""The elastic net: the sum of l1 and l2 as a penalty, and the minimum of theory as a step."""

import pytest
import torch
from torch import nn

from dlopt.base.layout import Layout
from dlopt.optimizer.sgd import SGD
from dlopt.regularization.elastic_net import ElasticNet
from dlopt.regularization.l1 import L1
from dlopt.regularization.l2 import L2

LAYOUT = Layout.of(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)))


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (1e-3, 2.0)])
def test_as_a_penalty_it_is_the_sum_of_l1_and_l2(l1, l2):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    both = L1(l1, False).penalty(w, LAYOUT) + L2(l2).penalty(w, LAYOUT)
    torch.testing.assert_close(ElasticNet(l1, l2, False).penalty(w, LAYOUT), both)


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.7), (0.5, 2.0)])
def test_its_step_is_the_nearest_point_with_the_penalty_added(l1, l2):
    """min_v (v - w)^2 / 2 + lr (l1 |v| + l2 v^2 / 2): the subgradient at the result holds zero; the rest is left."""
    w, lr = torch.randn(LAYOUT.size, dtype=torch.float64), 0.7
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


def test_without_l2_its_step_is_that_of_l1():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    one = ElasticNet(0.8, 0.0, True).after(w.clone(), w, 0.5, LAYOUT)
    torch.testing.assert_close(one, L1(0.8, True).after(w.clone(), w, 0.5, LAYOUT))
    assert (one == 0).any()


class Diagonal:
    """f(w) = sum of h_i (w_i - m_i)^2 / 2."""

    layout = Layout.of(nn.Linear(6, 1, bias=False))
    h = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    m = torch.tensor([3.0, -0.2, 0.1, -0.9, -2.0, 50.0], dtype=torch.float64)

    def gradient(self, w):
        return 0.5 * (self.h * (w - self.m).square()).sum(), self.h * (w - self.m)


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.3, 0.5), (1.0, 2.0)])
def test_proximal_descent_ends_at_the_minimum_with_true_zeros(l1, l2):
    rule, net, objective, w = SGD(0.1), ElasticNet(l1, l2, True), Diagonal(), torch.ones(6, dtype=torch.float64)
    for _ in range(2000):
        moment = rule.step(w, (), objective)
        w = net.after(moment.w, w, rule.lr, objective.layout)
    h, m = Diagonal.h, Diagonal.m
    expected = m.sign() * (h * m.abs() - l1).clamp(min=0) / (h + l2)
    torch.testing.assert_close(w, expected)
    assert torch.equal(w == 0, expected == 0)
    assert (w == 0).any()


def test_it_works_in_the_objective_or_after_the_step_and_never_in_both():
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    assert ElasticNet(1.0, 1.0, True).penalty(w, LAYOUT) is None
    assert torch.equal(ElasticNet(1.0, 1.0, False).after(w.clone(), w, 0.1, LAYOUT), w)
    assert ElasticNet(1.0, 1.0, True).needs_lr
    assert not ElasticNet(1.0, 1.0, False).needs_lr

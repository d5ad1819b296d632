"""The L2 penalty: (strength / 2) |W|^2 over weights, and what theory says of it."""

import pytest
import torch
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.regularization.l2 import L2

NET = nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)).double()
LAYOUT = Layout.of(NET)


@pytest.mark.parametrize("strength", [0.0, 1e-4, 3.0])
def test_it_is_half_the_strength_times_the_squares_of_matrices(strength):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    pieces = LAYOUT.views(w)
    expected = strength / 2 * (pieces["0.weight"].square().sum() + pieces["2.weight"].square().sum())
    torch.testing.assert_close(L2(strength).penalty(w, LAYOUT), expected)


def test_its_gradient_is_the_strength_times_the_weights_and_zero_elsewhere():
    w = torch.randn(LAYOUT.size, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(L2(0.3).penalty(w, LAYOUT), w)
    for p in LAYOUT:
        expected = 0.3 * w[p.slice] if p.kind == "weight" else torch.zeros(p.size, dtype=torch.float64)
        torch.testing.assert_close(g[p.slice], expected.detach())


def test_strength_may_be_a_tensor_of_each_lane():
    w = torch.randn(3, LAYOUT.size, dtype=torch.float64)
    strengths = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    together = torch.vmap(lambda w, s: L2(s).penalty(w, LAYOUT))(w, strengths)
    alone = [L2(s).penalty(w[i], LAYOUT) for i, s in enumerate(strengths.tolist())]
    torch.testing.assert_close(together, torch.stack(alone))


def test_nets_of_one_size_and_other_shapes_are_told_apart():
    one, other = Layout.of(nn.Linear(5, 1)), Layout.of(nn.Linear(2, 2))
    assert one.size == other.size
    w = torch.ones(one.size)
    assert L2(2.0).penalty(w, one) == 5
    assert L2(2.0).penalty(w, other) == 4


def test_it_shrinks_each_eigendirection_of_a_quadratic_by_l_over_l_plus_strength():
    """Goodfellow, Bengio and Courville 2016, equation 7.13."""
    layout = Layout.of(nn.Linear(4, 1, bias=False))
    eigenvalues, best, strength = torch.tensor([0.1, 0.5, 1.0, 4.0]).double(), torch.ones(4).double(), 0.7
    w = torch.zeros(4, dtype=torch.float64)
    for _ in range(500):
        leaf = w.clone().requires_grad_()
        loss = 0.5 * (eigenvalues * (leaf - best).square()).sum() + L2(strength).penalty(leaf, layout)
        w = w - 0.2 * torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(w, eigenvalues / (eigenvalues + strength) * best)

"""Maxout networks against a loop over units and pieces, and functions that a unit can represent."""

import pytest
import torch
from helpers import make_arch
from torch import nn

from dlopt import prng
from dlopt.arch.maxout import MaxoutUnits
from dlopt.base.layout import Layout
from dlopt.bias_init.zeros import ZerosBias
from dlopt.init.he import He
from dlopt.init.lecun_normal import LecunNormal
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.regularization.dropout import Dropout, DropoutSite
from dlopt.training.experiment import sample_initial_weights


def h(x, weight, bias, pieces):
    """Goodfellow et al. 2013, section 3: h_i(x) = max_j z_ij with z_ij = x^T W_..ij + b_ij, one number at a time."""
    units = len(bias) // pieces
    z = [[x @ weight[i * pieces + j] + bias[i * pieces + j] for j in range(pieces)] for i in range(units)]
    return torch.stack([max(of_unit) for of_unit in z])


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_it_is_a_loop_over_units_and_pieces(pieces):
    net = make_arch("maxout", (2, 3), outputs=4, widths=[7, 5], pieces=pieces).double()
    layers = [m for m in net.hidden if isinstance(m, nn.Linear)]
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    for example, output in zip(x, net(x), strict=True):
        a = example.flatten()
        for layer in layers:
            a = h(a, layer.weight, layer.bias, pieces)
        torch.testing.assert_close(output, net.output.weight @ a + net.output.bias)


def unit(slopes, offsets):
    """Return one unit on numbers: the maximum of slope x + offset."""
    net = make_arch("maxout", (1,), widths=[1], pieces=len(slopes)).double()
    with torch.no_grad():
        net.hidden[0].weight.copy_(torch.tensor(slopes).unsqueeze(1))
        net.hidden[0].bias.copy_(torch.tensor(offsets))
    return net.hidden


X = torch.linspace(-3, 3, 601, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize(("slopes", "function"), [([1.0, 0.0], torch.relu), ([1.0, -1.0], torch.abs)])
def test_a_unit_of_two_pieces_can_be_a_relu_and_an_absolute_value(slopes, function):
    assert torch.equal(unit(slopes, [0.0, 0.0])(X), function(X))


@pytest.mark.parametrize("pieces", [2, 4, 8, 16])
def test_the_error_on_a_convex_function_falls_with_the_square_of_the_pieces(pieces):
    """Tangents of x^2 at the middles of equal parts of [-3, 3] are off by (half a part)^2 at most, at the edges."""
    middles = [-3 + 6 * (i + 0.5) / pieces for i in range(pieces)]
    error = X**2 - unit([2 * a for a in middles], [-a * a for a in middles])(X)
    assert error.min() >= -1e-12
    assert error.max().item() == pytest.approx((3 / pieces) ** 2, rel=0.02)


def test_one_piece_is_an_affine_map():
    net = make_arch("maxout", (6,), pieces=1).double()
    x, y = torch.randn(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(net(x + y) + net(torch.zeros_like(x)), net(x) + net(y))


def test_each_hidden_layer_is_linear_then_normalization_maximum_and_dropout():
    options = {"normalization": BatchNormalization(1e-5, 0.1), "regularization": Dropout(0.5, 0.0, "train")}
    net = make_arch("maxout", (9,), widths=[8, 6], pieces=3, **options)
    assert [type(m) for m in net.hidden] == [nn.Linear, BatchNorm, MaxoutUnits, DropoutSite] * 2
    assert [(m.in_features, m.out_features) for m in net.hidden if isinstance(m, nn.Linear)] == [(9, 24), (8, 18)]
    assert [m.index for m in net.hidden if isinstance(m, DropoutSite)] == [0, 1]


@pytest.mark.parametrize(
    ("init", "pieces", "factor"), [(LecunNormal(1.0), 2, 1.0), (He(2**0.5), 2, 2.0), (LecunNormal(1.0), 4, 1.55)]
)
def test_the_mean_square_of_activations_changes_by_the_documented_factor(init, pieces, factor):
    depth = 6
    net = make_arch("maxout", (300,), widths=[300] * depth, pieces=pieces).double()
    w = sample_initial_weights(net, Layout.of(net), init, ZerosBias(), 1.0, prng.key(0), torch.float64)
    nn.utils.vector_to_parameters(w, net.parameters())
    x = torch.randn(20, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ratio = net.hidden(x).square().mean() / x.square().mean()
    assert ratio.item() ** (1 / depth) == pytest.approx(factor, rel=0.05)

"""Networks: shapes for all shapes of data, sizes from the papers, and the order of the layers."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import assert_refused, make_arch, make_option
from torch import nn

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.arch.linear import LinearModel
from dlopt.arch.mlp import MLP
from dlopt.base.layout import Layout
from dlopt.bias_init.zeros import ZerosBias
from dlopt.config.compose import groups
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.regularization.dropout import Dropout, DropoutSite
from dlopt.training.experiment import sample_initial_weights

SHAPES = {"features": (13,), "series": (1, 40), "channels": (3, 24), "images": (1, 28, 28), "colour": (3, 32, 20)}
OTHERS = ("custom", "quadratic", "surface", "rnn", "gru", "lstm", "transformer")
ARCHS = [name for name in groups.list_option_names("arch") if name not in OTHERS]
"""Networks for data of any kind, without those that compute their own loss or take only sequences."""
NEEDS_POSITIONS = {"cnn", "resnet", "vgg", "googlenet"}
NEEDS_IMAGES = {"deepobs_2c2d", "deepobs_3c3d"}
SMALL = {"vgg": {"width": 0.1}, "googlenet": {"width": 0.1, "auxiliary_weight": None}}
PAIRS = [
    (name, shape) for name in ARCHS for shape, sizes in SHAPES.items()
    if not (len(sizes) == 1 and name in NEEDS_POSITIONS) and not (len(sizes) < 3 and name in NEEDS_IMAGES)
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), PAIRS)
@pytest.mark.parametrize("full", [False, True], ids=["bare", "normalized, dropout"])
def test_a_batch_of_any_suitable_data_becomes_a_batch_of_outputs(name, shape, full):
    extra = (
        {"normalization": BatchNormalization(1e-5, 0.1), "regularization": Dropout(0.3, 0.0, "train")} if full else {}
    )
    net = make_arch(name, SHAPES[shape], outputs=7, **extra, **SMALL.get(name, {}))
    x = torch.randn(5, *SHAPES[shape])
    for training in (True, False):
        assert net.train(training)(x).shape == (5, 7)


@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_examples_of_a_batch_do_not_see_each_other(name, shape):
    net = make_arch(name, SHAPES[shape], **SMALL.get(name, {})).double()
    x = torch.randn(5, *SHAPES[shape], dtype=torch.float64)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]))


@pytest.mark.parametrize("name", ARCHS)
def test_every_parameter_has_a_gradient(name):
    shape = (1, 9, 9) if name in NEEDS_IMAGES else (1, 40)
    net = make_arch(name, shape, normalization=BatchNormalization(1e-5, 0.1), **SMALL.get(name, {}))
    net(torch.randn(30, *shape)).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_cnn_is_the_net_of_the_mnist1d_paper():
    """Three convolutions of 25 channels, kernels 5, 3, 3, stride 2 and padding 1, then a linear layer of 125."""
    net = make_arch("cnn", (1, 40)).double()
    assert sum(p.numel() for p in net.parameters()) == 5210
    convolutions = [nn.Conv1d(a, 25, k, stride=2, padding=1) for a, k in ((1, 5), (25, 3), (25, 3))]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    theirs = nn.Sequential(*layers, nn.Flatten(), nn.Linear(125, 10)).double()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), theirs.parameters())
    x = torch.randn(6, 1, 40, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("widths", [[], [7], [7, 5], [3, 9, 4, 2]])
def test_the_mlp_has_a_matrix_and_a_bias_for_each_layer(widths):
    net = make_arch("mlp", (2, 6), outputs=4, widths=widths)
    sizes = [12, *widths, 4]
    assert sum(p.numel() for p in net.parameters()) == sum(a * b + b for a, b in pairwise(sizes))


def test_the_mlp_is_the_net_of_the_mnist1d_paper():
    """Two hidden layers of 100 units on 40 numbers: 15,210 weights and biases."""
    net = make_arch("mlp", (1, 40)).double()
    assert sum(p.numel() for p in net.parameters()) == 15_210
    theirs = nn.Sequential(
        nn.Flatten(), nn.Linear(40, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(net.parameters()).detach(), theirs.double().parameters()
    )
    x = torch.randn(6, 1, 40, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("name", sorted(NEEDS_POSITIONS | NEEDS_IMAGES))
def test_a_network_of_convolutions_refuses_features_and_says_what_it_takes(name):
    with pytest.raises(
        ValueError,
        match=rf"{name} needs .*images \(channels, height, width\), the data has shape \(13,\); use arch=mlp",
    ):
        make_arch(name, (13,))


def test_depth_and_width_replace_widths():
    one, other = make_arch("mlp", (2, 6), widths=[9, 8], depth=3, width=5), make_arch("mlp", (2, 6), widths=[5, 5, 5])
    other.load_state_dict(one.state_dict())
    x = torch.randn(5, 2, 6)
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize(("key", "missing"), [("depth", "width"), ("width", "depth")])
def test_a_depth_needs_a_width_and_a_width_a_depth(key, missing):
    assert_refused(lambda: make_arch("mlp", (2, 6), **{key: 4}), missing, "4", f"add arch.{missing}=")


def test_a_thousand_tanh_layers_carry_signal_and_gradient_with_orthogonal_weights_and_lose_both_with_gaussian():
    """Pennington, Schoenholz and Ganguli 2017, section 3: orthogonal weights of gain 1 keep both near level."""
    for orthogonal, gaussian in zip(measure_gains("orthogonal"), measure_gains("xavier_normal"), strict=True):
        assert orthogonal > 0.01
        assert gaussian < 1e-6


def measure_gains(init):
    """Return the ratios of norms of signal and gradient through a thousand tanh layers."""
    net = make_arch("mlp", (16,), activation=Tanh(), depth=1000, width=16).double()
    w = sample_initial_weights(
        net, Layout.of(net), make_option("init", init), ZerosBias(), Tanh.gain, prng.key(0), torch.float64
    )
    nn.utils.vector_to_parameters(w, net.parameters())
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).mul(0.1).unsqueeze(0).requires_grad_()
    last = net.hidden(x)
    (back,) = torch.autograd.grad(last, x, torch.ones_like(last))
    return (last.norm() / x.norm()).item(), (back.norm() / 4).item()


def test_an_mlp_without_hidden_layers_is_the_linear_net():
    one, other = make_arch("mlp", (2, 6), widths=[]), make_arch("linear", (2, 6))
    other.load_state_dict(one.state_dict())
    x = torch.randn(5, 2, 6)
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_net_is_one_matrix_and_a_bias(shape):
    net = make_arch("linear", SHAPES[shape]).double()
    x = torch.randn(5, *SHAPES[shape], dtype=torch.float64)
    assert isinstance(net, LinearModel)
    torch.testing.assert_close(net(x), x.reshape(5, -1) @ net.output.weight.T + net.output.bias)


HIDDEN = [(MLP, (9,), nn.Linear), (CNN, (1, 40), nn.Conv1d), (CNN, (3, 20, 20), nn.Conv2d)]


@pytest.mark.parametrize(("kind", "shape", "layer"), HIDDEN)
def test_each_hidden_layer_is_linear_then_normalization_activation_and_dropout(kind, shape, layer):
    rule = Dropout(0.5, 0.0, "train")
    name = kind.__name__.lower()
    full = make_arch(name, shape, normalization=BatchNormalization(1e-5, 0.1), regularization=rule)
    count = len(full.hidden) // 4
    assert [type(m) for m in full.hidden] == [layer, BatchNorm, nn.ReLU, DropoutSite] * count
    assert [m.index for m in full.hidden if isinstance(m, DropoutSite)] == list(range(count))
    assert all(m.regularization is rule for m in full.hidden if isinstance(m, DropoutSite))
    assert [type(m) for m in make_arch(name, shape).hidden] == [layer, nn.ReLU] * count
    assert type(full.output) is nn.Linear


@pytest.mark.parametrize("shape", [(1, 40), (2, 33), (1, 17, 23)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_the_last_layer_of_the_cnn_fits_the_outputs_of_the_convolutions(shape, stride, padding):
    net = make_arch("cnn", shape, channels=[4, 6], kernels=[3, 5], stride=stride, padding=padding)
    assert net.output.in_features == math.prod(net.hidden(torch.randn(2, *shape)).shape[1:])


def test_the_smallest_inputs_of_the_cnn_still_give_an_output():
    """A convolution of kernel 5, stride 2 and padding 1 needs 3 positions, and leaves 3 of 7 and 7 of 15."""
    assert make_arch("cnn", (1, 15), kernels=[5, 5, 5])(torch.randn(2, 1, 15)).shape == (2, 10)
    assert make_arch("cnn", (1, 7), channels=[25] * 2, kernels=[5, 5])(torch.randn(2, 1, 7)).shape == (2, 10)


@pytest.mark.parametrize(
    ("shape", "kernels", "words"),
    [((13,), [5, 3, 3], "arch=mlp"), ((1, 40), [3, 3], "kernels"), ((1, 14), [5, 5, 5], "after 3 convolutions"),
     *((shape, [5, 5, 5], "nothing is left") for shape in ((1, 2), (3, 2, 40), (1, 40, 2)))],
)  # fmt: skip
def test_the_cnn_refuses_inputs_and_kernels_that_do_not_fit(shape, kernels, words):
    with pytest.raises(ValueError, match=words):
        make_arch("cnn", shape, kernels=kernels)

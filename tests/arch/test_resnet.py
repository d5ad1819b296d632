"""Residual networks: published sizes, a forward pass by hand, and the effect of the additions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_refused, make_arch, make_option
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.bias_init.zeros import ZerosBias
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.normalization.none import NoNormalization
from dlopt.regularization.dropout import Dropout, DropoutSite
from dlopt.training.experiment import sample_initial_weights

BATCH = BatchNormalization(1e-5, 0.1)
CIFAR = (3, 32, 32)


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_the_nets_of_the_paper_have_the_sizes_of_its_table_6(blocks, millions):
    net = make_arch("resnet", CIFAR, normalization=BATCH, blocks=blocks)
    assert round(count(net) / 1e6, 2 if millions < 1 else 1) == millions
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * blocks + 2


@pytest.mark.parametrize(("shortcut", "parameters"), [("identity", 269_722), ("projection", 272_474)])
def test_resnet_20_has_the_published_number_of_weights(shortcut, parameters):
    assert count(make_arch("resnet", CIFAR, normalization=BATCH, shortcut=shortcut)) == parameters


def by_hand(own, x, *, channels, blocks, skip, shortcut):
    """He et al. 2016, sections 3.3 and 4.2, on images with batch normalization, from a table of named parameters."""

    def convolve(name, x, stride):
        kernel = own[f"{name}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        layer, number = name.rsplit(".", 1)
        scale, shift = (own[f"{layer}.{int(number) + 1}.{kind}"] for kind in ("weight", "bias"))
        return F.batch_norm(x, None, None, scale, shift, training=True)

    x = F.relu(convolve("first.0", x, 1))
    before, n = channels[0], 0
    for stage, features in enumerate(channels):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = F.relu(convolve(f"blocks.{n}.branch.0", x, stride))
            y = convolve(f"blocks.{n}.branch.3", y, 1)
            if stride == 2 and shortcut == "identity":
                small = x[:, :, ::2, ::2]
                x = torch.cat([small, torch.zeros(len(x), features - before, *small.shape[2:], dtype=x.dtype)], dim=1)
            elif stride == 2 and skip:
                x = convolve(f"blocks.{n}.shortcut.0", x, 2)
            x = F.relu(x + y if skip else y)
            before, n = features, n + 1
    return x.mean((2, 3)) @ own["output.weight"].T + own["output.bias"]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("skip", "shortcut"), [(True, "identity"), (True, "projection"), (False, "identity")])
def test_the_forward_is_the_papers(skip, shortcut, kernel):
    keys = {"channels": [3, 4, 6], "blocks": 2, "skip": skip, "shortcut": shortcut}
    net = make_arch("resnet", (2, 9, 7), normalization=BATCH, kernel=kernel, **keys).double()
    x = torch.randn(5, 2, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(net(x), by_hand(dict(net.named_parameters()), x, **keys))
    kernels = {p.shape[2:] for name, p in net.named_parameters() if p.ndim == 4 and "shortcut" not in name}
    assert kernels == {(kernel, kernel)}


@pytest.mark.parametrize("normalization", [BATCH, NoNormalization()])
def test_the_plain_twin_has_the_same_weights_by_name_and_shape(normalization):
    net, twin = (make_arch("resnet", (1, 40), normalization=normalization, skip=skip) for skip in (True, False))
    assert Layout.of(net) == Layout.of(twin)
    shapes = [{name: p.shape for name, p in make_arch("resnet", (1, 40), shortcut="projection", skip=s).named_parameters()}
              for s in (True, False)]  # fmt: skip
    extra = shapes[0].keys() - shapes[1].keys()
    assert {name.split(".")[2] for name in extra} == {"shortcut"}


@pytest.mark.parametrize(("skip", "shortcut"), [(True, "identity"), (True, "projection"), (False, "identity")])
def test_stages_halve_positions_and_widen_channels(skip, shortcut):
    net = make_arch("resnet", (2, 33, 20), channels=[4, 4, 7], blocks=2, skip=skip, shortcut=shortcut)
    x, shapes = net.first(torch.randn(2, 2, 33, 20)), []
    for block in net.blocks:
        x = block(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 33, 20)] * 2 + [(4, 17, 10)] * 2 + [(7, 9, 5)] * 2


def test_a_block_whose_branch_is_zero_is_the_identity():
    net = make_arch("resnet", (1, 40), normalization=BATCH, channels=[5], blocks=4).double()
    with torch.no_grad():
        for block in net.blocks:
            block.branch[-1].weight.zero_()
    x = net.first(torch.randn(3, 1, 40, dtype=torch.float64))
    assert torch.equal(net.blocks(x), x)


def test_an_identity_shortcut_has_every_second_position_and_channels_of_zeros():
    net = make_arch("resnet", (1, 9), normalization=BATCH, channels=[2, 5], blocks=1).double()
    with torch.no_grad():
        net.blocks[1].branch[-1].weight.zero_()
    x = torch.rand(3, 2, 9, dtype=torch.float64)
    y = net.blocks[1](x)
    assert torch.equal(y[:, :2], x[:, :, [0, 2, 4, 6, 8]])
    assert not y[:, 2:].any()


def measure_gradient_ratio(depth, init, normalization, *, skip):
    """Return the norm of the gradient after the first convolution over the norm after the last block."""
    net = make_arch("resnet", (1, 40), normalization=normalization, channels=[8], blocks=depth, skip=skip).double()
    w = sample_initial_weights(
        net, Layout.of(net), make_option("init", init), ZerosBias(), 1.0, prng.key(0), torch.float64
    )
    nn.utils.vector_to_parameters(w, net.parameters())
    at = [net.first(torch.randn(32, 1, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))]
    for block in net.blocks:
        at.append(block(at[-1]))
    outputs = net.output(at[-1].flatten(2).mean(-1))
    first, last = torch.autograd.grad(outputs.sum(), [at[0], at[-1]])
    return (first.norm() / last.norm()).item()


def test_the_additions_keep_the_gradient_that_the_plain_twin_loses():
    """ReLU halves the mean square of the gradient, and lecun_normal does not compensate: 2^-12 after 24 layers."""
    assert 0.1 < measure_gradient_ratio(12, "lecun_normal", NoNormalization(), skip=True) < 10
    assert measure_gradient_ratio(12, "lecun_normal", NoNormalization(), skip=False) < 2**-12


def test_with_batch_normalization_gradients_grow_exponentially_only_in_the_plain_twin():
    """Yang et al. 2019 and Balduzzi et al. 2017: the plain one's grow exponentially, the residual one's do not."""
    plain, residual = ([measure_gradient_ratio(n, "he", BATCH, skip=skip) for n in (10, 20)] for skip in (False, True))
    assert plain[1] > plain[0] ** 1.5 > 100
    assert residual[1] < 3 * residual[0] < 60


def test_dropout_is_inside_the_branches():
    rule = Dropout(0.5, 0.0, "train")
    net = make_arch("resnet", (1, 40), normalization=BATCH, regularization=rule, channels=[4, 6], blocks=2)
    kinds = [nn.Conv1d, BatchNorm, nn.ReLU, DropoutSite, nn.Conv1d, BatchNorm]
    assert [[type(m) for m in block.branch] for block in net.blocks] == [kinds] * 4
    assert [m.index for m in net.modules() if isinstance(m, DropoutSite)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("normalization", "biases"), [(BATCH, 0), (NoNormalization(), 13)])
def test_convolutions_have_biases_only_without_normalization(normalization, biases):
    net = make_arch("resnet", (1, 40), normalization=normalization, blocks=2)
    assert sum(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv1d)) == biases


def test_shapes_and_hyperparameters_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="arch=mlp"):
        make_arch("resnet", (13,))
    assert_refused(lambda: make_arch("resnet", (1, 40), kernel=4), "kernel", "odd", 4)
    assert_refused(lambda: make_arch("resnet", (1, 40), channels=[]), "channels", "none")
    assert_refused(
        lambda: make_arch("resnet", (1, 40), channels=[8, 4]), "channels", [8, 4], "arch.shortcut=projection"
    )
    assert make_arch("resnet", (1, 40), channels=[8, 4], shortcut="projection")(torch.randn(2, 1, 40)).shape == (2, 10)

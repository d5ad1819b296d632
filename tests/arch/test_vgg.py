"""VGG networks: the sizes of the usual implementation for CIFAR-10, and the same layers of torch.nn."""

import pytest
import torch
from helpers import make_arch
from torch import nn

from dlopt.normalization.batch import BatchNormalization
from dlopt.regularization.dropout import Dropout, DropoutSite

BATCH = BatchNormalization(1e-5, 0.1)
LAYERS = {
    "A": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "B": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "C": [64, 64, "M", 128, 128, "M", 256, 256, -256, "M", 512, 512, -512, "M", 512, 512, -512, "M"],
    "D": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "E": [64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"],
}
"""Channels, and M for pooling; a negative number has a 1x1 kernel."""
PUBLISHED = {"A": 9_231_114, "B": 9_416_010, "D": 14_728_266, "E": 20_040_522}
"""Weights and biases of the networks for CIFAR-10 with batch normalization, with biases of the convolutions."""


def count(net):
    return sum(p.numel() for p in net.parameters())


def make_twin(configuration, channels, width, norm):
    layers = []
    for entry in LAYERS[configuration]:
        if entry == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        after = round(abs(entry) * width)
        kernel = 3 if entry > 0 else 1
        layers.append(nn.Conv2d(channels, after, kernel, padding="same", bias=not norm))
        layers += [nn.BatchNorm2d(after), nn.ReLU()] if norm else [nn.ReLU()]
        channels = after
    return nn.Sequential(*layers, nn.AvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).double()


@pytest.mark.parametrize("configuration", PUBLISHED)
def test_the_networks_have_the_published_sizes(configuration):
    with torch.device("meta"):
        net = make_arch("vgg", (3, 32, 32), normalization=BATCH, configuration=configuration)
    biases = sum(abs(n) for n in LAYERS[configuration] if n != "M")
    assert count(net) == PUBLISHED[configuration] - biases
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == {"A": 9, "B": 11, "D": 14, "E": 17}[configuration]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("configuration", LAYERS)
def test_the_network_is_the_same_as_of_torchs_layers(configuration, norm):
    extra = {"normalization": BATCH} if norm else {}
    net = make_arch("vgg", (3, 32, 32), configuration=configuration, width=0.125, **extra).double()
    theirs = make_twin(configuration, 3, 0.125, norm)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), theirs.parameters())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 1, 1), (2, 40), (3, 70, 33)])
def test_positions_are_halved_five_times_rounded_up(shape):
    net = make_arch("vgg", shape, width=0.05)
    positions = net.hidden(torch.randn(2, *shape)).shape[2:]
    assert list(positions) == [-(-n // 32) for n in shape[1:]]


def test_dense_layers_come_before_the_last_one_each_with_dropout():
    net = make_arch("vgg", (1, 8, 8), width=0.05, dense=[7, 5], regularization=Dropout(0.5, 0.0, "train"))
    assert [m.out_features for m in net.dense if isinstance(m, nn.Linear)] == [7, 5]
    sites = [m.index for m in net.modules() if isinstance(m, DropoutSite)]
    assert sites == list(range(10))
    assert net(torch.randn(2, 1, 8, 8)).shape == (2, 10)

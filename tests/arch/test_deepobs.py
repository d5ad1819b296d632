"""The networks of DeepOBS: published sizes, and the same layers of torch.nn."""

import math

import pytest
import torch
from helpers import compose_config, make_arch
from torch import nn

from dlopt.arch._convolutions import SamePool

SIZES = {
    ("deepobs_2c2d", (1, 28, 28)): 3_274_634,
    ("deepobs_3c3d", (3, 32, 32)): 895_210,
}


def pad_and_pool(kernel):
    """Return the padding of TensorFlow for an even number of positions, and maxima with stride 2."""
    return [nn.ConstantPad2d((0, kernel - 2, 0, kernel - 2), -math.inf), nn.MaxPool2d(kernel, 2)]


def make_twin(name):
    if name == "deepobs_2c2d":
        layers = [
            *(nn.Conv2d(1, 32, 5, padding="same"), nn.ReLU(), *pad_and_pool(2)),
            *(nn.Conv2d(32, 64, 5, padding="same"), nn.ReLU(), *pad_and_pool(2)),
            *(nn.Flatten(), nn.Linear(7 * 7 * 64, 1024), nn.ReLU(), nn.Linear(1024, 10)),
        ]
    else:
        layers = [
            *(nn.Conv2d(3, 64, 5), nn.ReLU(), *pad_and_pool(3)),
            *(nn.Conv2d(64, 96, 3), nn.ReLU(), *pad_and_pool(3)),
            *(nn.Conv2d(96, 128, 3, padding="same"), nn.ReLU(), *pad_and_pool(3)),
            *(nn.Flatten(), nn.Linear(3 * 3 * 128, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)),
        ]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize(("name", "shape"), SIZES)
def test_the_network_is_the_published_one(name, shape):
    net, theirs = make_arch(name, shape).double(), make_twin(name)
    assert sum(p.numel() for p in net.parameters()) == SIZES[name, shape]
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), theirs.parameters())
    x = torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("n", range(1, 9))
def test_pooling_pads_as_tensorflow_does(n, kernel, stride):
    """ceil(n / stride) windows; half of the missing positions, rounded down, lie before the first one."""
    x = torch.randn(2, 1, n, n + 3) - 5.0  # negative: zeros in the padding would be seen

    def windows(n):
        count = math.ceil(n / stride)
        first = -(max(0, (count - 1) * stride + kernel - n) // 2)
        return [range(max(0, i), min(n, i + kernel)) for i in range(first, first + count * stride, stride)]

    expected = [[x[:, :, rows][:, :, :, columns].amax((2, 3)) for columns in windows(n + 3)] for rows in windows(n)]
    expected = torch.stack([torch.stack(row, -1) for row in expected], -2)
    assert torch.equal(SamePool(kernel, stride)(x), expected)


def test_they_choose_the_published_initial_weights_unless_others_are_typed():
    assert compose_config("arch=deepobs_2c2d").init == {
        "_target_": "dlopt.init.truncated_normal.TruncatedNormal",
        "std": 0.05,
    }
    assert compose_config("arch=deepobs_3c3d").init["_target_"] == "dlopt.init.xavier_normal.XavierNormal"
    assert compose_config("arch=deepobs_2c2d", "init=he").init["_target_"] == "dlopt.init.he.He"


def test_images_that_are_too_small_are_refused():
    make_arch("deepobs_3c3d", (1, 9, 9))(torch.randn(2, 1, 9, 9))
    with pytest.raises(ValueError, match=r"at least 9x9, the data has shape \(1, 9, 8\); use arch=cnn"):
        make_arch("deepobs_3c3d", (1, 9, 8))

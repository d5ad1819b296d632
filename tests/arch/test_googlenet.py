"""GoogLeNet: the sizes of its table, the same layers of torch.nn, and heads that only training uses."""

import pytest
import torch
from helpers import make_arch, make_option
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.bias_init.zeros import ZerosBias
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.regularization.dropout import Dropout, DropoutSite
from dlopt.training.experiment import sample_initial_weights

BATCH = BatchNormalization(1e-5, 0.1)
OPERATIONS = {"3a": 128, "3b": 304, "4a": 73, "4b": 88, "4c": 100, "4d": 119, "4e": 170, "5b": 71}
"""Millions of multiply-adds of blocks, from table 1 of the paper; without 5a, whose 54 contradicts its channels (51)."""
POSITIONS = {"3": 28 * 28, "4": 14 * 14, "5": 7 * 7}
BLOCKS = {
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels of inputs and convolutions."""
WIDTH = 0.125


class Block(nn.Module):
    def __init__(self, conv, before, one, less_three, three, less_five, five, pooled):
        super().__init__()
        self.one = conv(before, one, 1)
        self.three = nn.Sequential(conv(before, less_three, 1), conv(less_three, three, 3))
        self.five = nn.Sequential(conv(before, less_five, 1), conv(less_five, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(before, pooled, 1))

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class Twin(nn.Module):
    """The network on 32x32 or 28x28, written out."""

    def __init__(self, norm):
        super().__init__()

        def conv(before, after, kernel):
            layers = [nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=not norm)]
            return nn.Sequential(*layers, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU())

        def head(before):
            return nn.Sequential(
                nn.AvgPool2d(5, stride=3),
                conv(before, 16, 1),
                nn.Flatten(),
                nn.Linear(16 * 4 * 4, 128),
                nn.ReLU(),
                nn.Linear(128, 10),
            )

        self.first = conv(3, 24, 3)
        self.blocks = nn.ModuleDict(
            {name: Block(conv, *(round(n * WIDTH) for n in row)) for name, row in BLOCKS.items()}
        )
        self.heads = nn.ModuleDict({"4a": head(64), "4d": head(66)})
        self.output = nn.Linear(128, 10)

    def forward(self, x):
        b, pool = self.blocks, nn.MaxPool2d(3, stride=2, padding=1)
        x = pool(b["3b"](b["3a"](self.first(x))))
        x4a = b["4a"](x)
        x4d = b["4d"](b["4c"](b["4b"](x4a)))
        x = b["5b"](b["5a"](pool(b["4e"](x4d))))
        return self.output(x.mean((2, 3))), [self.heads["4a"](x4a), self.heads["4d"](x4d)]


def test_the_blocks_take_the_operations_of_the_papers_table():
    with torch.device("meta"):
        net = make_arch("googlenet", (3, 28, 28))
    for name, millions in OPERATIONS.items():
        weights = sum(m.weight.numel() for m in net.blocks[name].modules() if isinstance(m, nn.Conv2d))
        assert weights * POSITIONS[name[0]] / 1e6 == pytest.approx(millions, abs=1.0), name


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("norm", [False, True])
def test_the_network_is_the_same_as_of_torchs_layers(norm, side):
    net = make_arch("googlenet", (3, side, side), width=WIDTH, **({"normalization": BATCH} if norm else {})).double()
    theirs = Twin(norm).double()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), theirs.parameters())
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 40), (1, 3, 9)])
def test_inference_gives_the_bits_of_a_network_without_heads(shape):
    net = make_arch("googlenet", shape, width=0.1, normalization=BATCH).eval()
    plain = make_arch("googlenet", shape, width=0.1, normalization=BATCH, auxiliary_weight=None)
    assert not any("head" in name for name, _ in plain.named_parameters())
    plain.load_state_dict({name: x for name, x in net.state_dict().items() if not name.startswith("heads")})
    for module in net.heads.modules():
        module.register_forward_pre_hook(lambda *_: pytest.fail("a head was computed"))
    x = torch.randn(4, *shape)
    assert torch.equal(net(x), plain.eval()(x))
    output, heads = make_arch("googlenet", shape, width=0.1)(x)
    assert [tuple(y.shape) for y in (output, *heads)] == [(4, 10)] * 3
    assert make_arch("googlenet", shape, width=0.1, auxiliary_weight=None)(x).shape == (4, 10)


def test_heads_do_not_change_the_initial_weights_of_the_others():
    nets = [make_arch("googlenet", (1, 12), width=0.1, auxiliary_weight=weight) for weight in (0.3, None)]
    starts = []
    for net in nets:
        layout = Layout.of(net)
        w = sample_initial_weights(net, layout, make_option("init", "he"), ZerosBias(), 1.0, prng.key(0), torch.float64)
        starts.append(layout.views(w))
    assert all(torch.equal(starts[0][name], value) for name, value in starts[1].items())


def test_dropout_and_normalization_are_where_they_belong():
    rule = Dropout(0.4, 0.0, "train")
    net = make_arch("googlenet", (1, 28, 28), width=0.1, normalization=BATCH, regularization=rule)
    assert [name for name, m in net.named_modules() if isinstance(m, DropoutSite)] == [
        "heads.4a.7",
        "heads.4d.7",
        "dropout",
    ]
    assert [m.index for m in net.modules() if isinstance(m, DropoutSite)] == [1, 2, 0]
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 9 * 6 + 2 == sum(isinstance(m, BatchNorm) for m in net.modules())

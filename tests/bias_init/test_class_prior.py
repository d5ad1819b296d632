"""Output biases from class frequencies, in float64."""

import math

import mine
import pytest
import torch
import torch.nn.functional as F
from helpers import build_blobs, build_experiment
from torch import nn

from dlopt import prng
from dlopt.bias_init.class_prior import ClassPrior
from dlopt.config.problems import ConfigError
from dlopt.config.stateful_modules import replace_stateful_modules
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights

PRIOR = ("bias_init=class_prior", "precision=float64")


def compute_loss(experiment):
    """Return the loss on the training split before the first step."""
    x, y = experiment.train.gather()
    torch.nn.utils.vector_to_parameters(experiment.w, experiment.model.parameters())
    with torch.no_grad():
        return F.cross_entropy(experiment.model.eval()(x.double()), y)


def entropy(experiment):
    c = experiment.train.gather()[1].bincount().double()
    c = c / c.sum()
    return -(c * c.log()).sum()


@pytest.mark.parametrize("count", [60, 70, 101])
def test_the_first_loss_is_the_entropy_of_the_classes_if_outputs_are_zero(count):
    experiment = build_blobs(*PRIOR, f"+data.count={count}", "init=zeros")
    torch.testing.assert_close(compute_loss(experiment), entropy(experiment))


def test_the_first_loss_is_close_to_the_entropy_if_outputs_are_small():
    """Outputs of size 0.01 change the loss by less than 0.01."""
    experiment = build_blobs(*PRIOR, "+data.count=100", "init=normal", "init.std=0.01", "data.label_noise=0.3")
    assert abs(compute_loss(experiment) - entropy(experiment)) < 0.01


def test_the_softmax_of_the_biases_is_the_share_of_each_class_in_the_training_split():
    experiment = build_blobs(*PRIOR, "+data.count=101")
    bias = experiment.w[-3:]
    y = experiment.train.gather()[1]
    torch.testing.assert_close(bias.softmax(0), torch.stack([(y == k).double().mean() for k in range(3)]))
    assert not experiment.w[32:40].any(), "hidden biases are zero"
    torch.testing.assert_close(experiment.w[40:-3], build_blobs("precision=float64", "+data.count=101").w[40:-3])


def start_of(model, targets, inputs=(4,)):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(len(targets), *inputs, generator=draw, dtype=torch.float64)
    return MiniBatchInitProbe(model.double(), F.cross_entropy, Split(x, targets), torch.float64, prng.key(0))


def adjust(model, targets, inputs=(4,)):
    """Return the adjusted parameters of a network by name; all others are one."""
    start = start_of(model, targets, inputs)
    w = adjust_weights(
        torch.ones(start.layout.size, dtype=torch.float64), mine.ConstantInit(), ClassPrior(), lambda: start
    )
    return {n: v for n, v in start.layout.views(w).items() if not (v == 1).all()}


def test_a_class_without_examples_counts_as_half_an_example():
    (bias,) = adjust(nn.Linear(4, 3), torch.tensor([0, 0, 2, 2, 2, 2])).values()
    torch.testing.assert_close(bias.softmax(0), torch.tensor([2, 0.5, 4], dtype=torch.float64) / 6.5)


class TwoHeads(nn.Module):
    """Two biases have the right size; the second one is added to the outputs."""

    def __init__(self):
        super().__init__()
        self.offset = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.output = nn.Conv1d(3, 3, 4)
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        return self.output(self.norm(self.offset(x)).unsqueeze(-1).expand(-1, 3, 4)).squeeze(-1)


def test_the_output_bias_is_identified_by_its_effect():
    assert list(adjust(TwoHeads(), torch.arange(9) % 3)) == ["output.bias"]
    assert list(adjust(replace_stateful_modules(mine.NormDropoutNet((4,), 8)), torch.arange(16) % 8)) == [
        "head.bias"
    ], "not the bias of as many hidden units"
    assert list(adjust(nn.Sequential(nn.Linear(4, 3), nn.Identity()), torch.arange(9) % 3)) == ["0.bias"]


@pytest.mark.parametrize(
    "model",
    [nn.Linear(4, 3, bias=False), nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Sequential(nn.Linear(4, 3), mine.LayerNorm()(3, 0))],
    ids=["none", "before a tanh", "before a normalization"],
)  # fmt: skip
def test_a_network_without_an_output_bias_is_refused(model):
    with pytest.raises(ValueError, match="needs a bias that is added to the network's outputs"):
        adjust(model, torch.arange(9) % 3)


def test_large_outputs_do_not_hide_the_bias():
    model = nn.Linear(4, 3)
    nn.init.constant_(model.weight, 1e4)
    start = start_of(model, torch.arange(9) % 3)
    for dtype in (torch.float64, torch.float32):
        start.inputs = start.inputs.to(dtype)
        w = ClassPrior().adjust(torch.full((15,), 1e4, dtype=dtype), start)
        torch.testing.assert_close(w[-3:], torch.full((3,), -math.log(3), dtype=dtype))


def test_regression_targets_are_refused():
    line = ("data=custom", "data._target_=mine.Regression", "loss=mse", "arch=mlp", "arch.widths=[3]", "batch_size=16")
    with pytest.raises(ConfigError) as error:
        build_experiment(*line, "bias_init=class_prior")
    ((key, message),) = error.value.problems
    assert key == "bias_init"
    assert "numbers" in message

"""Freezing of parameters, and of the statistics of batch normalizations."""

import copy

import pytest
import torch
from torch import nn

from dlopt.base.network import freeze
from dlopt.loss.mse import MeanSquaredError
from dlopt.normalization.batch import BatchNorm
from dlopt.objective.problem import Problem
from dlopt.prng import Key


def build_network():
    """Return a linear layer with batch normalization, then another one, at statistics of their own, in float64."""
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.Tanh(), nn.Linear(4, 4), BatchNorm(4), nn.Linear(4, 1))
    for module in model:
        if isinstance(module, BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.double()


def twin(model):
    """Return the network with its first normalization as the affine map that it is in inference."""
    other, norm = copy.deepcopy(model), model[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    affine = nn.Linear(4, 4).double()
    affine.load_state_dict({"weight": scale.diag(), "bias": norm.bias - scale * norm.running_mean})
    other[1] = affine.requires_grad_(False)
    other[0].requires_grad_(False)
    return other


def evaluate(model, w, x):
    """Return the loss of a training evaluation, its gradient, a Hessian product and the statistics of the batch."""
    problem = Problem(model, MeanSquaredError([]), ())
    y = torch.zeros(len(x), 1, dtype=x.dtype)

    def loss(w):
        value, evaluation = problem.total(w, x, y, Key(0, 0), {})
        return value, evaluation.statistics

    def gradient(w):
        return torch.func.grad(lambda w: loss(w)[0])(w)

    product = torch.func.grad(lambda w: gradient(w).sum())(w)
    return loss(w)[0], gradient(w), product, loss(w)[1]


def test_a_frozen_normalization_is_its_affine_map_in_training():
    torch.manual_seed(0)
    model, x = build_network(), torch.randn(8, 3, dtype=torch.float64)
    freeze(model, {"0.weight", "0.bias", "1.weight", "1.bias"})
    w = torch.randn(sum(p.numel() for p in model.parameters() if p.requires_grad), dtype=torch.float64)
    *ours, statistics = evaluate(model, w, x)
    *theirs, _ = evaluate(twin(model), w, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert statistics.keys() == {"4.running_mean", "4.running_var"}


@pytest.mark.parametrize(
    ("names", "frozen"),
    [
        (("1.weight", "1.bias"), True),
        (("1.weight",), False),  # the shift is still trained
        (("0.weight", "0.bias"), False),
        ((), False),
    ],
)
def test_statistics_are_frozen_if_no_parameter_of_the_normalization_is_trained(names, frozen):
    model = build_network()
    freeze(model, names)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == set(names)
    for module in (model.train(), copy.deepcopy(model).train()):
        assert [module[1].training, module[4].training] == [not frozen, True]


def test_a_tied_parameter_is_frozen_by_each_of_its_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    freeze(model, {"1.weight"})
    assert not model[0].weight.requires_grad
    assert model[0].bias.requires_grad

"""Which modules are activations, where they are bounded, and which have kinks."""

import copy

import mine
import pytest
import torch
from helpers import build_blobs, build_experiment, list_options, make_option
from torch import nn

from dlopt.activation.tanh import Tanh
from dlopt.arch.maxout import MaxoutUnits
from dlopt.objective import activation_hooks


@pytest.mark.parametrize("option", list_options("activation"))
def test_a_module_of_the_configured_activation_is_one(option):
    """Even nn.Identity, which is not one otherwise."""
    factory = activation_hooks.MarkedActivationFactory(make_option("activation", option))
    assert list(activation_hooks.find_activations(nn.Sequential(factory(), nn.Linear(2, 2)))) == ["0"]


@pytest.mark.parametrize(("arch", "names"), [("mlp", [1, 3]), ("cnn", [1, 3, 5])])
def test_the_activations_of_a_configured_network_are_found(arch, names):
    model = build_experiment(f"arch={arch}", "activation=linear").model
    assert list(activation_hooks.find_activations(model)) == [f"hidden.{i}" for i in names]


def test_a_custom_activation_is_one_in_a_copy_too():
    model = build_blobs("activation=custom", "activation._target_=mine.Square", "normalization=batch").model
    activations = activation_hooks.find_activations(copy.deepcopy(model))
    assert list(activations) == ["hidden.2"]
    assert isinstance(activations["hidden.2"], mine._Square)


TORCHS = [n for n in nn.modules.activation.__all__ if n != "MultiheadAttention"]


def make_torch_activation(name):
    arguments = {"Threshold": (0.1, 0.0), "Softmax": (1,), "Softmin": (1,), "LogSoftmax": (1,)}
    return getattr(nn, name)(*arguments.get(name, ())).eval()


@pytest.mark.parametrize("name", TORCHS)
def test_activations_of_torch_are_elementwise_and_have_no_weights(name):
    module = make_torch_activation(name)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    try:
        elementwise = torch.allclose(module(x)[:1, :2, :2, :2], module(x[:1, :2, :2, :2]))
    except RuntimeError:
        elementwise = False
    expected = elementwise and not list(module.parameters())
    assert (list(activation_hooks.find_activations(nn.Sequential(module))) == ["0"]) == expected


def test_neither_attention_nor_a_subclass_is_one():
    class Other(nn.ReLU):
        pass

    model = nn.Sequential(nn.MultiheadAttention(4, 2), Other(), nn.Identity(), nn.Dropout(), nn.Linear(2, 2))
    assert activation_hooks.find_activations(model) == {}


@pytest.mark.parametrize("name", TORCHS)
def test_bounds_are_the_limits_of_bounded_activations(name):
    """The limits of f(-x) and f(x) as x grows, if both are finite."""
    module = make_torch_activation(name)
    if "0" not in activation_hooks.find_activations(nn.Sequential(module)):
        return
    far, farther = (module(torch.tensor([-x, x])) for x in (1e6, 1e12))
    limits = tuple(far.tolist()) if (farther - far).abs().max() < 1 else None
    assert activation_hooks.get_bounds(module) == (limits and pytest.approx(limits, abs=1e-5))


def test_a_custom_module_declares_its_bounds():
    class Sine(nn.Module):
        bounds = (-1.0, 1.0)

    assert activation_hooks.get_bounds(Sine()) == (-1.0, 1.0)
    assert activation_hooks.get_bounds(mine._Square()) is None
    assert activation_hooks.get_bounds(nn.Hardtanh(-2.0, 3.0)) == (-2.0, 3.0)


def test_the_factory_has_the_attributes_of_the_wrapped_one():
    factory = activation_hooks.MarkedActivationFactory(Tanh())
    assert factory.gain == Tanh.gain
    assert type(factory()) is nn.Tanh
    assert copy.deepcopy(factory).gain == Tanh.gain
    with pytest.raises(AttributeError, match="alpha"):
        _ = factory.alpha


def test_records_are_copies_by_name_of_the_last_use():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net.add_module("3", net[1])
    net.add_module("4", nn.Threshold(0.5, 0.0, inplace=True))
    x = torch.randn(5, 3)
    with activation_hooks.record_outputs(activation_hooks.find_activations(net)) as outputs:
        net(x)
    assert list(outputs) == ["1", "4"]
    last = net[2](net[0](x).relu()).relu()
    assert torch.equal(outputs["1"], last)  # before the module after it overwrote it
    assert torch.equal(outputs["4"], last * (last > 0.5))
    assert not outputs["1"].requires_grad
    with activation_hooks.record_outputs({}) as nothing:
        net(x)
    assert nothing == {}
    assert not net[1]._forward_hooks


class Pairs(nn.Module):
    """The square of one feature times the next: it takes an even number of features."""

    def forward(self, x):
        return x[..., ::2].square() * x[..., 1::2]


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x) * x if self.training else x.exp()


KINKED = {
    "relu": True, "leaky_relu": True, "prelu": True, "selu": True, "elu": False, "gelu": False, "silu": False,
    "softplus": False, "tanh": False, "sigmoid": False, "linear": False, "hardswish": True, "mish": False,
}  # fmt: skip
"""By their formulas: whether the slope jumps. The slope of ELU is continuous for alpha = 1."""


@pytest.mark.parametrize("option", list_options("activation"))
def test_kinks_of_an_activation_are_where_its_formula_has_them(option):
    assert activation_hooks.has_kinks(make_option("activation", option)()) == KINKED[option]


@pytest.mark.parametrize(("module", "expected"), [
    (nn.ELU(2.0), True), (nn.LeakyReLU(1.0), False), (nn.PReLU(7), True), (nn.PReLU(7, init=1.0), False),
    (nn.Hardtanh(), True), (nn.ReLU6(), True), (nn.Hardswish(), True), (nn.Softshrink(), True), (nn.Softsign(), False),
    (nn.Softplus(beta=20), False), (nn.Mish(), False), (nn.RReLU(), True), (MaxoutUnits(3), True),
    (MaxoutUnits(1), False), (Pairs(), False), (Noisy(), False), (nn.Linear(999, 3), False),
])  # fmt: skip
def test_kinks_are_measured_in_any_module(module, expected):
    before = torch.get_rng_state()
    assert activation_hooks.has_kinks(module) == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training

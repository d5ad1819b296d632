"""Which modules are activations, and where they are bounded."""

import copy

import mine
import pytest
import torch
from helpers import build_blobs, build_experiment
from torch import nn

from dlopt.activation.tanh import Tanh
from dlopt.config.compose import groups
from dlopt.objective import activation_hooks


@pytest.mark.parametrize("option", [o for o in groups.list_option_names("activation") if o != "custom"])
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_what_the_configured_activation_makes_is_one(arch, option):
    """nn.Identity too, which elsewhere is none."""
    found = activation_hooks.find_activations(build_experiment(f"arch={arch}", f"activation={option}").model)
    assert list(found) == {"mlp": ["hidden.1", "hidden.3"], "cnn": ["hidden.1", "hidden.3", "hidden.5"]}[arch]


def test_ones_own_is_one():
    found = activation_hooks.find_activations(build_blobs("activation=custom", "activation._target_=mine.Square").model)
    assert list(found) == ["hidden.1"]
    assert isinstance(found["hidden.1"], mine._Square)
    assert list(activation_hooks.find_activations(copy.deepcopy(build_blobs("normalization=batch").model))) == [
        "hidden.2"
    ]


def test_a_network_without_any_has_none():
    assert activation_hooks.find_activations(build_experiment("arch=linear").model) == {}


TORCHS = [n for n in nn.modules.activation.__all__ if n != "MultiheadAttention"]


def made(name):
    """torch's activation of this name, with what it must be told."""
    told = {"Threshold": (0.1, 0.0), "Softmax": (1,), "Softmin": (1,), "LogSoftmax": (1,)}
    return getattr(nn, name)(*told.get(name, ()))


@pytest.mark.parametrize("name", TORCHS)
def test_torchs_own_are_those_that_look_at_each_number_alone(name):
    """Whether an output depends on its own input alone is asked of the module; what has weights is left out."""
    module = made(name).eval()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    try:
        alone = torch.allclose(module(x)[:1, :2, :2, :2], module(x[:1, :2, :2, :2]))
    except RuntimeError:
        alone = False
    wanted = alone and not list(module.parameters())
    assert (list(activation_hooks.find_activations(nn.Sequential(module))) == ["0"]) == wanted


def test_neither_attention_nor_a_subclass_is_one():
    class Other(nn.ReLU):
        pass

    assert (
        activation_hooks.find_activations(
            nn.Sequential(nn.MultiheadAttention(4, 2), Other(), nn.Identity(), nn.Dropout())
        )
        == {}
    )


@pytest.mark.parametrize("name", TORCHS)
def test_bounds_are_the_limits_far_out(name):
    """Of f(-x) and f(x) as x grows, where both stay finite."""
    module = made(name).eval()
    if "0" not in activation_hooks.find_activations(nn.Sequential(module)):
        return
    far, farther = (module(torch.tensor([-x, x])) for x in (1e6, 1e12))
    limits = tuple(far.tolist()) if (farther - far).abs().max() < 1 else None
    found = activation_hooks.get_bounds(module)
    assert found == (limits if limits is None else pytest.approx(limits, abs=1e-5))


def test_ones_own_module_says_its_bounds():
    class Sine(nn.Module):
        bounds = (-1.0, 1.0)

    assert activation_hooks.get_bounds(Sine()) == (-1.0, 1.0)
    assert activation_hooks.get_bounds(mine._Square()) is None
    assert activation_hooks.get_bounds(nn.Hardtanh(-2.0, 3.0)) == (-2.0, 3.0)


def test_the_maker_is_otherwise_itself():
    maker = activation_hooks.MarkedActivationFactory(Tanh())
    assert maker.gain == Tanh.gain
    assert type(maker()) is nn.Tanh
    assert copy.deepcopy(maker).gain == Tanh.gain
    with pytest.raises(AttributeError, match="alpha"):
        _ = maker.alpha


def test_records_are_copies_by_name_of_the_last_use():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net.add_module("3", net[1])
    net.add_module("4", nn.Threshold(0.5, 0.0, inplace=True))
    x = torch.randn(5, 3)
    with activation_hooks.record_outputs(activation_hooks.find_activations(net)) as found:
        net(x)
    assert list(found) == ["1", "4"]
    last = net[2](net[0](x).relu()).relu()
    assert torch.equal(found["1"], last)  # as it was before the one behind it overwrote it
    assert torch.equal(found["4"], last * (last > 0.5))
    assert not found["1"].requires_grad
    with activation_hooks.record_outputs({}) as nothing:
        net(x)
    assert nothing == {}
    assert not net[1]._forward_hooks

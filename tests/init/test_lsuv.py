"""Unit variance layer by layer, in float64."""

import math

import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.init.lsuv import Lsuv
from dlopt.init.normal import Normal
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights, sample_initial_weights

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def mlp(make, depth=30, width=40):
    layers = [nn.Linear(10, width), make()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), make()]
    return nn.Sequential(*layers, nn.Linear(width, 3)), (10,)


def cnn(make, depth=30, width=6):
    layers = [nn.Conv2d(2, width, 3, padding=1), make()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(width, width, 3, padding=1), make()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * width, 3)), (2, 5, 5)


def start_probe(net, init, bias, scale=1.0):
    """Return the probe of the network at its first batch, w as sampled, and w as adjusted."""
    model, inputs = net
    draw = torch.Generator().manual_seed(1)
    x = scale * torch.randn(100, *inputs, generator=draw, dtype=torch.float64)
    start = MiniBatchInitProbe(
        model.double(), CrossEntropy([], None), Split(x, torch.arange(100) % 3), torch.float64, prng.key(0)
    )
    w = sample_initial_weights(model, Layout.of(model), init, bias, 1.0, prng.key(0, "init"), torch.float64)
    return start, w, adjust_weights(w, init, bias, lambda: start)


def variances(start, w):
    """Return the variance of the outputs of each layer of a stack."""
    nn.utils.vector_to_parameters(w, start._model.parameters())
    x, values = start.inputs, []
    with torch.no_grad():
        for module in start._model:
            x = module(x)
            if hasattr(module, "weight"):
                values.append(float(x.var(correction=0)))
    return values


@pytest.mark.parametrize("net", [mlp, cnn])
@pytest.mark.parametrize("make", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_outputs_of_all_thirty_layers_have_variance_one(net, make):
    start, before, w = start_probe(net(make), Lsuv(0.1, 10), Normal(0.0), scale=3.0)
    assert variances(start, w) == pytest.approx([1.0] * 30, abs=0.1)
    assert not all(abs(v - 1) < 0.5 for v in variances(start, before))


def test_one_division_is_exact_for_equal_biases_and_several_bring_others_within_tolerance():
    for bias, tries, error in ((Normal(0.0), 1, 1e-9), (Normal(0.5), 1, 0.5), (Normal(0.5), 10, 0.01)):
        start, _, w = start_probe(mlp(nn.ReLU), Lsuv(0.01, tries), bias)
        worst = max(abs(v - 1) for v in variances(start, w))
        assert worst <= error
        assert worst > 0.1 or tries > 1 or bias.std == 0.0


def test_the_weights_stay_orthogonal():
    start, before, w = start_probe(mlp(nn.Tanh, depth=5), Lsuv(0.1, 10), Normal(0.0))
    old, new = start.layout.views(before), start.layout.views(w)
    for name in old:
        if name.endswith("weight"):
            values = torch.linalg.svdvals(new[name])
            torch.testing.assert_close(torch.linalg.svdvals(old[name]), torch.ones_like(values))
            torch.testing.assert_close(values, values[0].expand_as(values))
            torch.testing.assert_close(new[name], old[name] * values[0])
        else:
            assert torch.equal(new[name], old[name])


def test_a_layer_within_the_tolerance_does_not_change():
    start, before, w = start_probe(mlp(nn.ReLU), Lsuv(1e9, 10), Normal(0.0))
    assert torch.equal(w, before)
    start, before, w = start_probe(mlp(nn.Identity, depth=6, width=10), Lsuv(0.5, 10), Normal(0.0))
    values = variances(start, w)
    assert all(0.5 <= v <= 1.5 for v in values)
    assert any(abs(v - 1) > 1e-3 for v in values)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_layers_before_a_normalization_have_variance_one(precision):
    net = ("arch=cnn", "arch.channels=[4,4]", "arch.kernels=[3,2]", "normalization=batch", "regularization=dropout")
    data = ("data=custom", "data._target_=mine.Blobs", "+data.shape=[2,6,6]", "batch_size=16", f"device={DEVICE}")
    experiment = build_experiment(*net, *data, "init=lsuv", f"precision={precision}")
    key = prng.key(0, "first_batch")
    start = MiniBatchInitProbe(experiment.model, experiment.loss, experiment.train, experiment.settings.dtype, key)
    values = {}
    start.rescale_layers(experiment.w, lambda p, outputs: values.update({p.name: float(outputs.var(correction=0))}))
    assert list(values.values()) == pytest.approx([1.0] * 3, rel=1e-4)


def test_it_does_not_depend_on_the_batch_size_of_the_run():
    one, other = build_blobs("init=lsuv"), build_blobs("init=lsuv", "batch_size=full")
    assert torch.equal(one.w, other.w)
    assert not torch.equal(one.w, build_blobs("init=lsuv", "seed=1").w)


def test_a_layer_without_output_is_refused_by_name():
    with pytest.raises(ConfigError) as error:
        build_blobs("init=lsuv", "activation=custom", "activation._target_=mine.ZeroActivation")
    ((key, message),) = error.value.problems
    assert key == "init"
    assert "output.weight" in message
    assert "variance 0" in message


def test_the_gradient_reaches_the_first_layer_unlike_with_plain_orthogonal_weights():
    """In thirty sigmoid layers, with outputs of variance one before the activations."""
    start, before, w = start_probe(mlp(nn.Sigmoid), Lsuv(0.1, 10), Normal(0.0))

    def ratio(w):
        ends = list(start.gradients(w).values())
        return math.log10(float(ends[0].outputs.norm() / ends[-1].outputs.norm()))

    assert ratio(before) < -10
    assert ratio(w) > ratio(before) + 5

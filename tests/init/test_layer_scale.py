"""The scale of each layer from its effect on one mini-batch, in float64."""

import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.init.constant import ConstantInit
from dlopt.init.layer_scale import LayerScale
from dlopt.init.normal import Normal
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights, sample_initial_weights


def stack(make, depth, width=30):
    layers = [nn.Linear(8, width), make()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), make()]
    return nn.Sequential(*layers, nn.Linear(width, 3)).double()


def start_probe(model, init, bias=None, dtype=torch.float64):
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = MiniBatchInitProbe(model, CrossEntropy([], None), Split(x, torch.arange(100) % 3), dtype, prng.key(0))
    bias = bias or Normal(0.0)
    w = sample_initial_weights(model, Layout.of(model), init, bias, 1.0, prng.key(0, "init"), dtype)
    return start, w, adjust_weights(w, init, bias, lambda: start)


def forward(start, w):
    """Return the inputs and the activations of each layer (the outputs of the last one)."""
    nn.utils.vector_to_parameters(w, start._model.parameters())
    x = start.inputs.clone().requires_grad_()
    values = [x]
    for linear, act in zip(start._model[::2], [*start._model[1::2], nn.Identity()], strict=True):
        x = act(linear(x))
        values.append(x)
    return values


ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity}


@pytest.mark.parametrize("depth", [2, 12])
@pytest.mark.parametrize("std", [0.01, 3.0])
@pytest.mark.parametrize("make", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations_are_level(make, std, depth):
    start, before, w = start_probe(stack(make, depth), LayerScale("activations", 0.5, 0.1, 200, std))
    levels = [float(h.detach().std(correction=0)) for h in forward(start, w)[1:]]
    assert len(levels) == depth
    assert all(0.45 <= s <= 0.55 for s in levels)
    assert not all(0.45 <= h.std() <= 0.55 for h in forward(start, before)[1:])


@pytest.mark.parametrize("depth", [2, 12])
@pytest.mark.parametrize("std", [0.01, 0.3])
@pytest.mark.parametrize("make", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_gradients_are_level_with_the_gradient_at_the_outputs(make, std, depth):
    start, _, w = start_probe(stack(make, depth), LayerScale("gradients", 1.0, 0.1, 200, std))
    ends = forward(start, w)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(ends[-1], start.targets), ends)
    levels = [float(g.std(correction=0) / gradients[-1].std(correction=0)) for g in gradients[:-1]]
    assert len(levels) == depth
    assert all(0.9 <= s <= 1.1 for s in levels)


@pytest.mark.parametrize("of", ["activations", "gradients"])
def test_weights_change_by_a_factor_for_each_layer_and_biases_not_at_all(of):
    start, before, w = start_probe(stack(nn.ReLU, 5), LayerScale(of, 0.5, 0.01, 200, 0.01), ConstantInit(0.1))
    old, new = start.layout.views(before), start.layout.views(w)
    for name in old:
        ratio = float(new[name].norm() / old[name].norm())
        torch.testing.assert_close(new[name], old[name] * ratio)
        assert (ratio == pytest.approx(1.0)) is name.endswith("bias")


def test_a_net_so_deep_that_its_signal_underflows_becomes_level_piece_by_piece():
    model = stack(nn.ReLU, 60).float()
    start, before, w = start_probe(model, LayerScale("activations", 0.5, 0.1, 200, 0.01), dtype=torch.float32)
    assert list(start.layer_outputs(before).values())[-1].count_nonzero() == 0
    assert all(0.45 <= h.std() <= 0.55 for h in start.layer_outputs(w).values())


def test_gradients_that_dead_units_stop_are_refused_and_a_larger_std_lets_them_through():
    model = stack(nn.ReLU, 60).float()
    with pytest.raises(ValueError, match=r"they are zero.* larger std"):
        start_probe(model, LayerScale("gradients", 0.5, 0.1, 200, 0.01), dtype=torch.float32)
    start, _, w = start_probe(model, LayerScale("gradients", 0.5, 0.1, 200, 0.2), dtype=torch.float32)
    *_, last = gradients = list(start.gradients(w).values())
    assert all(0.45 <= g.inputs.std(correction=0) / last.outputs.std(correction=0) <= 0.55 for g in gradients)


@pytest.mark.parametrize("make", [nn.Identity, nn.ReLU])
def test_one_change_finds_all_scales_of_a_chain_that_is_linear_in_them(make):
    """Scales that are within the tolerance do not change."""
    start, _, w = start_probe(stack(make, 6), LayerScale("activations", 0.5, 1e-6, 1, 0.01))
    assert [float(h.detach().std(correction=0)) for h in forward(start, w)[1:]] == pytest.approx([0.5] * 6)
    rule = LayerScale("activations", 0.5, 0.1, 1, 0.01)
    assert torch.equal(rule.adjust(w, start), w)


def test_series_and_images():
    net = ("arch=cnn", "arch.channels=[4,4]", "arch.kernels=[3,2]")
    data = ("data=custom", "data._target_=mine.Blobs", "+data.shape=[2,6,6]", "batch_size=16", f"device={DEVICE}")
    for of in ("activations", "gradients"):
        experiment = build_experiment(*net, *data, "init=layer_scale", f"init.of={of}", "precision=float64")
        key = prng.key(0, "first_batch")
        start = MiniBatchInitProbe(experiment.model, experiment.loss, experiment.train, torch.float64, key)
        values = list((start.layer_outputs if of == "activations" else start.gradients)(experiment.w).values())
        if of == "gradients":
            values = [g.inputs / values[-1].outputs.std() for g in values]
        assert len(values) == 3
        assert all(0.44 <= v.std() <= 0.56 for v in values)


def test_integer_inputs_have_no_gradient_to_level():
    tokens = (
        "data=custom",
        "data._target_=mine.IntegerBlobs",
        "arch=custom",
        "arch._target_=mine.EmbeddingNet",
        "batch_size=16",
    )
    w = build_experiment(*tokens, "init=layer_scale", "init.of=gradients", "precision=float64").w
    assert 0.005 < w[:20].std() < 0.02, "the table keeps the std that the search begins with"


REFUSED = {
    "a normalization": ("normalization=batch", "init.target=2"),
    "units that are bounded": ("activation=tanh", "init.target=1.5"),
    "units that are silent": ("activation=custom", "activation._target_=mine.ZeroActivation"),
    "gradients through a normalization": ("normalization=batch", "init.of=gradients", "init.target=20"),
}


@pytest.mark.parametrize("keys", REFUSED.values(), ids=REFUSED)
def test_a_layer_that_cannot_become_level_is_refused(keys):
    with pytest.raises(ConfigError) as error:
        build_blobs("init=layer_scale", *keys)
    ((key, message),) = error.value.problems
    assert key == "init"
    assert "do not become level" in message
    assert ".weight" in message

"""Normalizations of weights, against torch's own and against the algorithms written out."""

import copy

import pytest
import torch
from helpers import build_blobs, build_experiment, load_weights, make_option, train_runs
from torch import nn
from torch.nn.utils import parametrizations

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem

NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolution": lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)),
}
INPUTS = {"linear": (8, 6), "convolution": (8, 2, 3)}
networks = pytest.mark.parametrize("name", NETWORKS)


def make_twins(name, option, convert):
    """Return a network normalized by dlopt, and a copy in which torch normalizes each layer."""
    torch.manual_seed(0)
    twin = NETWORKS[name]().double()
    model = make_option("normalization", option).replace_weights(copy.deepcopy(twin))
    for layer in twin:
        if hasattr(layer, "weight"):
            convert(layer)
    return model.double(), twin.double(), torch.randn(INPUTS[name], dtype=torch.float64)


@networks
def test_weight_normalization_is_that_of_torch_in_outputs_and_gradients(name):
    model, twin, x = make_twins(name, "weight", parametrizations.weight_norm)
    torch.testing.assert_close(model(x), twin(x))
    for network in (model, twin):
        network(x).square().sum().backward()
    gradients = [
        {tuple(p.shape): p.grad.flatten() for p in network.parameters() if p.ndim == d}
        for network, d in ((model, 2), (twin, 2))
    ]
    shapes = gradients[0].keys() & gradients[1].keys()
    assert shapes
    for shape in shapes:
        torch.testing.assert_close(gradients[0][shape], gradients[1][shape])
    for layer in (m for m in model if hasattr(m, "weight_v")):
        rows = (layer.weight_v.grad * layer.weight_v).flatten(1).sum(1)
        torch.testing.assert_close(rows, torch.zeros_like(rows), rtol=0, atol=1e-12), "orthogonal to v"
        layer.weight_v.data *= 7.0
    torch.testing.assert_close(model(x), twin(x)), "only the direction of v counts"


def test_a_run_begins_with_the_weights_that_the_init_draws_and_penalizes_directions():
    plain, normalized = (build_blobs("arch.widths=[5,4]", f"normalization={n}") for n in ("none", "weight"))
    views = Layout.of(normalized.model).views(normalized.w)
    drawn = {p.name: views.get(p.name, views.get(f"{p.name}_v")) for p in Layout.of(plain.model)}
    x, w = plain.train.inputs, Layout.of(plain.model).flatten(drawn)
    outputs = (
        Problem(plain.model, plain.loss).predict(w, x),
        Problem(normalized.model, normalized.loss).predict(normalized.w, x),
    )
    torch.testing.assert_close(*outputs)
    kinds = {p.name.rpartition(".")[2]: p.kind for p in Layout.of(normalized.model)}
    assert kinds == {"weight_v": "weight", "weight_g": "norm", "bias": "bias"}


@networks
def test_spectral_normalization_is_algorithm_1_and_its_statistics_move_once_per_step(name):
    model, _, x = make_twins(name, "spectral", lambda layer: None)
    layers = [m for m in model if hasattr(m, "weight_u")]
    vectors = [layer.weight_u.clone() for layer in layers]
    problem = Problem(model, build_blobs().loss)
    w = problem.bind(problem.layout.flatten({n: p.detach() for n, p in model.named_parameters()}))
    targets = torch.zeros(len(x), dtype=torch.long)
    for step in range(4):
        objective = MiniBatchObjective(problem, x, targets, prng.key(step))
        value = objective.gradient(w)[0]
        assert torch.equal(objective.value(w), value), "a second evaluation is the same function"
        for layer, stored in zip(layers, vectors, strict=True):
            torch.testing.assert_close(problem.running[f"{list(model).index(layer)}.weight_u"], stored)
        expected = []
        for i, layer in enumerate(layers):
            matrix = layer.weight_orig.detach().flatten(1)
            v = nn.functional.normalize(matrix.T @ vectors[i], dim=0)
            vectors[i] = nn.functional.normalize(matrix @ v, dim=0)
            expected.append(layer.weight_orig / (vectors[i] @ matrix @ v))
        torch.testing.assert_close([layer.weight for layer in layers], expected)
        problem.update_running_stats(objective.first_evaluation(w).statistics)
    for _ in range(300):
        problem.update_running_stats(problem.statistics(w, x))
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.eval().weight.flatten(1), 2).item() == pytest.approx(1.0, rel=1e-9)


@networks
def test_the_gradient_of_spectral_normalization_is_that_of_torch_at_the_same_singular_vectors(name):
    model, twin, x = make_twins(name, "spectral", parametrizations.spectral_norm)
    for network in (model, twin):
        network.train()
    for _ in range(500):
        for layer in (m for m in model if hasattr(m, "weight_u")):
            layer.weight  # noqa: B018  # a use computes u
            layer.weight_u.copy_(layer.batch_stats["weight_u"])
        twin(x)
    gradients = []
    for network in (model, twin):
        network(x).square().sum().backward()
        gradients.append([p.grad for n, p in sorted(network.named_parameters()) if "bias" not in n])
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("option", ["weight", "spectral"])
def test_lanes_equal_runs_alone_and_all_norms_reach_a_checkpoint(option, tmp_path):
    runs = [build_blobs(f"normalization={option}", "precision=float64", f"seed={i}", "epochs=3") for i in range(2)]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    _, (alone,) = train_runs(tmp_path / "alone", runs[1])
    torch.testing.assert_close(load_weights(lanes[1]), load_weights(alone), rtol=1e-9, atol=1e-9)
    states = [run.load("last")["model"] for run in (lanes[1], alone)]
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-9)
    if option == "spectral":
        assert any("weight_u" in name for name in states[0])


def test_a_network_without_such_layers_is_refused_with_the_key():
    with pytest.raises(ConfigError, match="normalization  the network has neither linear layers"):
        build_experiment("data=none", "arch=surface", "normalization=weight")

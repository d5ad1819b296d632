"""Initial weights: the distribution that the formula names, and a stream for each parameter."""

import math

import pytest
import torch
from helpers import built, named, options
from torch import nn

from dlopt import streams
from dlopt.bias.none import Own as OwnBias
from dlopt.bias.zeros import Zeros as ZeroBias
from dlopt.experiment import initial_weights
from dlopt.init.he import He
from dlopt.init.lecun_normal import LecunNormal
from dlopt.init.none import Own
from dlopt.init.normal import Normal
from dlopt.init.orthogonal import Orthogonal
from dlopt.init.xavier import Xavier
from dlopt.init.xavier_normal import XavierNormal
from dlopt.init.zeros import Zeros
from dlopt.normalization.batch import BatchNorm
from dlopt.weights import Layout, Parameter

KEY = streams.key(0, "init")
LAYERS = {
    "linear": nn.Linear(500, 300),
    "series": nn.Conv1d(60, 100, 9),
    "images": nn.Conv2d(40, 60, (5, 7)),
}


def drawn(model, init, bias=None, gain=1.0, key=KEY):
    """The initial values by parameter name."""
    layout = Layout.of(model)
    return layout.views(initial_weights(model, layout, init, bias or ZeroBias(), gain, key, torch.float64))


def variance_by_formula(init, layer, gain=1.0):
    field = math.prod(layer.weight.shape[2:])
    fan_out, fan_in = layer.weight.shape[0] * field, layer.weight.shape[1] * field
    if isinstance(init, He):
        return 2 / fan_in
    if isinstance(init, LecunNormal):
        return 1 / fan_in
    if isinstance(init, (Xavier, XavierNormal)):
        return (gain if init.gain == "auto" else init.gain) ** 2 * 2 / (fan_in + fan_out)
    return init.std**2


DRAWN = [
    *(He(), LecunNormal(), Normal(0.01), Normal(2.0)),
    *(make(gain) for make in (Xavier, XavierNormal) for gain in (1.0, 3.0, "auto")),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("init", DRAWN, ids=str)
def test_mean_and_variance_are_those_of_the_formula(init, layer):
    model = LAYERS[layer]
    w = drawn(nn.Sequential(model), init, gain=1.7)["0.weight"]
    n, variance = w.numel(), variance_by_formula(init, model, 1.7)
    assert abs(w.mean()) < 4 * math.sqrt(variance / n)
    assert abs(w.var() / variance - 1) < 4 * math.sqrt(2 / n)
    kurtosis = (w**4).mean() / w.var() ** 2
    assert abs(kurtosis - (9 / 5 if isinstance(init, Xavier) else 3)) < 4 * math.sqrt(96 / n)


@pytest.mark.parametrize("activation", options("activation"))
@pytest.mark.parametrize("layer", LAYERS)
def test_xavier_fills_its_bounds_with_the_activations_gain(layer, activation):
    gain = named("activation", activation).gain
    model = LAYERS[layer]
    w = drawn(nn.Sequential(model), Xavier("auto"), gain=gain)["0.weight"]
    bound = math.sqrt(3 * variance_by_formula(Xavier("auto"), model, gain))
    assert w.abs().max() <= bound * (1 + 1e-6)
    assert w.min() < -0.999 * bound
    assert w.max() > 0.999 * bound


@pytest.mark.parametrize("make", [Xavier, XavierNormal, Orthogonal])
def test_a_given_gain_stands_before_the_activations(make):
    weights = [drawn(nn.Linear(5, 4), make(2.0), gain=gain)["weight"] for gain in (1.0, 5.0)]
    assert torch.equal(*weights)


@pytest.mark.parametrize("make", [Xavier, XavierNormal, Orthogonal])
@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "elu"])
def test_auto_is_the_gain_of_the_activation_that_the_run_has(make, activation):
    option = {Xavier: "xavier", XavierNormal: "xavier_normal", Orthogonal: "orthogonal"}[make]
    run = ("arch=mlp", "arch.widths=[20]", f"activation={activation}", f"init={option}")
    gain = named("activation", activation).gain
    torch.testing.assert_close(built(*run, "init.gain=auto").w, built(*run, f"init.gain={gain}").w)


def test_he_keeps_the_mean_square_level_through_thirty_relu_layers():
    """He, Zhang, Ren and Sun 2015, section 2.2; with half the variance it would be 2^-30 of the first."""
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = nn.Sequential(*(nn.Linear(400, 400, bias=False) for _ in range(30)))
    first = x.square().mean()
    for w in drawn(model, He()).values():
        x = (x @ w.T).relu()
    assert 1 / 4 < 2 * x.square().mean() / first < 8


@pytest.mark.parametrize("name", options("init"))
def test_every_init_gives_finite_values_that_depend_on_the_key_alone(name):
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(8, 5))
    init = named("init", name)
    one, again, other = drawn(model, init), drawn(model, init), drawn(model, init, key=streams.key(1, "init"))
    own = dict(model.named_parameters())
    for n, w in one.items():
        assert w.shape == own[n].shape
        assert w.isfinite().all()
        assert torch.equal(w, again[n])
        if n.endswith("weight"):
            assert torch.equal(w, other[n]) is (name in ("none", "zeros"))


@pytest.mark.parametrize("name", options("init"))
def test_a_further_layer_leaves_the_draws_of_those_before_it(name):
    init = named("init", name)
    short = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    long = nn.Sequential(short[0], short[1], nn.Linear(4, 3), nn.Linear(3, 2))
    few, many = drawn(short, init), drawn(long, init)
    assert all(torch.equal(many[n], few[n]) for n in few)


def test_two_layers_of_one_shape_have_draws_of_their_own():
    w = drawn(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)), He())
    assert not torch.equal(w["0.weight"], w["1.weight"])


# ------------------------------------------------------------------------------------------- orthogonal

KERNELS = {
    "square": (40, 40), "wide": (30, 50), "tall": (50, 30), "series": (16, 4, 9), "images": (60, 3, 4, 3), "row": (1, 7),
}  # fmt: skip


@pytest.mark.parametrize("shape", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("gain", [1.0, 0.3, "auto"])
def test_rows_or_columns_are_orthogonal_and_all_singular_values_the_gain(shape, gain):
    parameter = Parameter("weight", shape, 0, "weight", 1, 1)
    w = Orthogonal(gain)(parameter, 1.7, streams.generator(KEY)).flatten(1)
    factor = 1.7 if gain == "auto" else gain
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    torch.testing.assert_close(gram, factor**2 * torch.eye(len(gram), dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.svdvals(w), torch.full((len(gram),), factor, dtype=torch.float64))


def test_an_orthogonal_stack_changes_no_length_at_any_depth():
    """Saxe, McClelland and Ganguli 2014, section 3; Gaussian matrices of the same scale lose the smallest directions."""
    deep = nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(100)))
    orthogonal, gaussian = (
        torch.linalg.multi_dot(list(drawn(deep, i).values())) for i in (Orthogonal(1.0), LecunNormal())
    )
    torch.testing.assert_close(torch.linalg.svdvals(orthogonal), torch.ones(20, dtype=torch.float64))
    assert torch.linalg.svdvals(gaussian)[-1] < 1e-6


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_orthogonal_matrices_are_uniform(shape):
    """Mezzadri 2007: under Haar measure entries have mean 0 and variance 1/n; a factorization's own signs break that."""
    parameter, draws = Parameter("weight", shape, 0, "weight", 1, 1), 4000
    generator = streams.generator(KEY)
    q = torch.stack([Orthogonal(1.0)(parameter, 1.0, generator) for _ in range(draws)])
    n = max(shape)
    assert q.mean(0).abs().max() < 4.5 / math.sqrt(draws * n)
    assert (q.square().mean(0) - 1 / n).abs().max() < 4.5 * math.sqrt(2 / (n * (n + 2)) / draws)
    if shape == (3, 3):
        trace = q.diagonal(dim1=1, dim2=2).sum(-1)
        assert abs(trace.square().mean() - 1) < 4.5 * math.sqrt(2 / draws)
        assert abs(torch.linalg.det(q).mean()) < 4.5 / math.sqrt(draws)


def test_zeros_are_zero():
    w = drawn(nn.Linear(5, 4), Zeros())
    assert not w["weight"].any()
    assert not w["bias"].any()


def test_none_keeps_what_the_modules_drew():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(8, 5))
    w = drawn(model, Own(), OwnBias())
    for n, p in model.named_parameters():
        torch.testing.assert_close(w[n], p.detach().double(), rtol=0, atol=0)


def test_weights_and_biases_are_drawn_apart():
    model = nn.Linear(5, 4)
    w = drawn(model, Normal(1.0), OwnBias())
    assert torch.equal(w["bias"], model.bias.detach().double())
    assert not torch.equal(w["weight"], model.weight.detach().double())
    w = drawn(model, Own(), ZeroBias())
    assert not w["bias"].any()
    assert torch.equal(w["weight"], model.weight.detach().double())


def test_normalization_parameters_keep_their_own_start():
    model = nn.Sequential(nn.Linear(5, 4), BatchNorm(4), nn.LayerNorm(4))
    w = drawn(model, Normal(1.0))
    for layer in ("1", "2"):
        assert (w[f"{layer}.weight"] == 1).all()
        assert (w[f"{layer}.bias"] == 0).all()


def test_initial_weights_leave_the_global_generator_alone():
    model = nn.Linear(5, 4)
    before = torch.get_rng_state()
    for name in options("init"):
        drawn(model, named("init", name))
    assert torch.equal(torch.get_rng_state(), before)

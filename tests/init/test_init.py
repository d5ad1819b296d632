"""Initial weights: the distribution of the formula, and one random stream per parameter."""

import math

import pytest
import torch
from helpers import assert_refused, build_blobs, list_options, make_option
from scipy.stats import kstest, truncnorm
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout, Parameter
from dlopt.bias_init.constant import ConstantBias
from dlopt.bias_init.none import KeepModuleBias
from dlopt.bias_init.zeros import ZerosBias
from dlopt.init.constant import ConstantInit
from dlopt.init.fan_in_uniform import FanInUniform
from dlopt.init.he import He
from dlopt.init.he_uniform import HeUniform
from dlopt.init.lecun_normal import LecunNormal
from dlopt.init.none import KeepModuleInit
from dlopt.init.normal import Normal
from dlopt.init.orthogonal import Orthogonal
from dlopt.init.random_walk import RandomWalk
from dlopt.init.sparse import Sparse
from dlopt.init.truncated_normal import TruncatedNormal
from dlopt.init.uniform import Uniform
from dlopt.init.variance_scaling import VarianceScaling
from dlopt.init.xavier import Xavier
from dlopt.init.xavier_normal import XavierNormal
from dlopt.init.zeros import ZerosInit
from dlopt.normalization.batch import BatchNorm
from dlopt.training.experiment import sample_initial_weights

KEY = prng.key(0, "init")
SQRT2 = math.sqrt(2.0)
LAYERS = {
    "linear": nn.Linear(500, 300),
    "series": nn.Conv1d(60, 100, 9),
    "images": nn.Conv2d(40, 60, (5, 7)),
}


def sample(model, init, bias=None, gain=1.0, key=KEY):
    """Return initial values by parameter name."""
    layout = Layout.of(model)
    return layout.views(sample_initial_weights(model, layout, init, bias or ZerosBias(), gain, key, torch.float64))


def scale_variance(gain):
    return make_option("init", "variance_scaling", gain=gain)


def compute_variance(init, layer, gain=1.0):
    field = math.prod(layer.weight.shape[2:])
    m, n = layer.weight.shape[1] * field, layer.weight.shape[0] * field
    gain = init.gain if getattr(init, "gain", "auto") != "auto" else gain
    return {
        He: lambda: gain**2 / m, HeUniform: lambda: gain**2 / m, FanInUniform: lambda: gain**2 / (3 * m),
        LecunNormal: lambda: gain**2 / m,
        Xavier: lambda: gain**2 * 2 / (m + n), XavierNormal: lambda: gain**2 * 2 / (m + n),
        VarianceScaling: lambda: gain**2 / {"fan_in": m, "fan_out": n, "fan_avg": (m + n) / 2}[init.mode],
        Uniform: lambda: (init.high - init.low) ** 2 / 12, Normal: lambda: init.std**2,
        RandomWalk: lambda: math.exp(1 / m) / m if init.units == "linear" else 2 * math.exp(2.4 / (m - 2.4)) / m,
    }[type(init)]()  # fmt: skip


KURTOSIS = {"normal": 3.0, "uniform": 9 / 5, "truncated_normal": 3 + float(truncnorm.stats(-2, 2, moments="k"))}


def get_distribution(init):
    uniform = isinstance(init, (Xavier, HeUniform, FanInUniform, Uniform))
    return getattr(init, "distribution", "uniform" if uniform else "normal")


INITS = [
    *(Normal(0.01), Normal(2.0), RandomWalk("relu"), RandomWalk("linear")),
    *(Uniform(-1.0, 1.0), Uniform(-0.3, 0.3)),
    *(
        make(gain)
        for make in (Xavier, XavierNormal, He, HeUniform, FanInUniform, LecunNormal)
        for gain in (1.0, "auto")
    ),
    *(
        VarianceScaling(gain, mode, kind)
        for gain, mode, kind in (
            (1.0, "fan_in", "normal"),
            ("auto", "fan_in", "normal"),
            ("auto", "fan_out", "normal"),
            (3.0, "fan_avg", "normal"),
            ("auto", "fan_avg", "uniform"),
            (0.5, "fan_out", "truncated_normal"),
        )
    ),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("init", INITS, ids=str)
def test_mean_and_variance_are_those_of_the_formula(init, layer):
    model = LAYERS[layer]
    w = sample(nn.Sequential(model), init, gain=1.7)["0.weight"]
    n, variance = w.numel(), compute_variance(init, model, 1.7)
    assert abs(w.mean()) < 4 * math.sqrt(variance / n)
    assert abs(w.var() / variance - 1) < 4 * math.sqrt(2 / n)
    kurtosis = (w**4).mean() / w.var() ** 2
    assert abs(kurtosis - KURTOSIS[get_distribution(init)]) < 4 * math.sqrt(96 / n)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("init", [HeUniform(SQRT2), FanInUniform(1.0), Uniform(-1.0, 1.0), Xavier("auto")], ids=str)
def test_a_uniform_init_fills_its_bounds(init, layer):
    model = LAYERS[layer]
    w = sample(nn.Sequential(model), init, gain=1.7)["0.weight"]
    bound = math.sqrt(3 * compute_variance(init, model, 1.7))
    assert 0.999 * bound < w.max() <= bound * (1 + 1e-6)
    assert 0.999 * bound < -w.min() <= bound * (1 + 1e-6)


def test_a_uniform_init_takes_any_two_numbers_in_order():
    w = sample(nn.Linear(50, 40), Uniform(2.0, 2.5))["weight"]
    assert 2.0 <= w.min() < 2.01
    assert 2.49 < w.max() <= 2.5
    assert_refused(lambda: Uniform(1.0, 0.5), "low", "at most high", "1 and 0.5")


def test_truncated_variance_scaling_is_the_widened_distribution_of_scipy():
    w = sample(nn.Linear(500, 300), VarianceScaling(3.0, "fan_out", "truncated_normal"))["weight"].flatten()
    scale = math.sqrt(9 / 300 / truncnorm.var(-2, 2))
    assert w.abs().max() <= 2 * scale * (1 + 1e-6)
    assert kstest(w, truncnorm(-2, 2, scale=scale).cdf).pvalue > 0.01


@pytest.mark.parametrize("std", [0.05, 2.0])
def test_a_truncated_normal_is_that_of_scipy(std):
    w = sample(nn.Linear(500, 300), TruncatedNormal(std))["weight"]
    assert w.abs().max() <= 2 * std * (1 + 1e-6)
    assert kstest(w.flatten(), truncnorm(-2, 2, scale=std).cdf).pvalue > 0.01


@pytest.mark.parametrize("layer", [nn.Linear(70, 9), nn.Conv1d(5, 8, 3), nn.Conv2d(4, 6, (3, 5), groups=2)], ids=str)
def test_the_bound_by_fan_in_is_that_of_torchs_own_layers(layer):
    """torch draws kaiming_uniform with a = sqrt(5), which is U(-1/sqrt(m), 1/sqrt(m))."""
    bound = 1 / math.sqrt(nn.init._calculate_fan_in_and_fan_out(layer.weight)[0])
    for w in (sample(layer, init)["weight"] for init in (FanInUniform(1.0), KeepModuleInit())):
        assert 0.9 * bound < w.abs().max() <= bound


@pytest.mark.parametrize(
    "make", [Xavier, XavierNormal, He, HeUniform, FanInUniform, LecunNormal, Orthogonal, scale_variance]
)
def test_an_explicit_gain_replaces_that_of_the_activation(make):
    weights = [sample(nn.Linear(5, 4), make(2.0), gain=gain)["weight"] for gain in (1.0, 5.0)]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("init", "activation"),
    [
        ("he", "tanh"),
        ("he_uniform", "selu"),
        ("lecun_normal", "relu"),
        ("fan_in_uniform", "relu"),
        ("xavier", "relu"),
        ("xavier_normal", "elu"),
        ("orthogonal", "leaky_relu"),
        ("variance_scaling", "gelu"),
    ],
)
def test_auto_is_the_gain_of_the_activation_of_the_run(init, activation):
    overrides = (f"activation={activation}", f"init={init}")
    gain = make_option("activation", activation).gain
    auto, explicit = (build_blobs(*overrides, f"init.gain={value}").w for value in ("auto", gain))
    torch.testing.assert_close(auto, explicit)


def test_he_keeps_the_mean_square_level_through_thirty_relu_layers():
    """He, Zhang, Ren and Sun 2015, section 2.2; with half the variance it would be 2^-30 of the first."""
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = nn.Sequential(*(nn.Linear(400, 400, bias=False) for _ in range(30)))
    first = x.square().mean()
    for w in sample(model, He(SQRT2)).values():
        x = (x @ w.T).relu()
    assert 1 / 4 < 2 * x.square().mean() / first < 8


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "softplus", "linear"])
def test_variance_scaling_keeps_the_mean_square_of_a_normal_input_through_an_activation(name):
    """By sampling: z ~ N(0, 1), then W f(z)."""
    activation = make_option("activation", name)
    z = torch.randn(1000, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = sample(nn.Linear(400, 2000, bias=False), scale_variance("auto"), gain=activation.gain)["weight"]
    assert (activation().double()(z) @ w.T).square().mean().item() == pytest.approx(1.0, abs=0.1)


def test_variance_scaling_draws_the_weights_of_he_and_of_lecun_by_their_gains():
    layer = nn.Linear(50, 40)
    for gain, twin in ((math.sqrt(2), He(SQRT2)), (1.0, LecunNormal(1.0))):
        torch.testing.assert_close(sample(layer, scale_variance(gain)), sample(layer, twin), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", list_options("init"))
def test_every_init_gives_finite_values_that_depend_only_on_the_key(name):
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(8, 5))
    init = make_option("init", name)
    one, same, other = sample(model, init), sample(model, init), sample(model, init, key=prng.key(1, "init"))
    own = dict(model.named_parameters())
    for n, w in one.items():
        assert w.shape == own[n].shape
        assert w.isfinite().all()
        assert torch.equal(w, same[n])
        if n.endswith("weight"):
            assert torch.equal(w, other[n]) is (name in ("none", "zeros", "constant"))


@pytest.mark.parametrize("name", list_options("init"))
def test_another_layer_does_not_change_the_values_of_the_layers_before_it(name):
    init = make_option("init", name)
    short = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    long = nn.Sequential(short[0], short[1], nn.Linear(4, 3), nn.Linear(3, 2))
    few, many = sample(short, init), sample(long, init)
    assert all(torch.equal(many[n], few[n]) for n in few)


def test_two_layers_of_one_shape_have_different_values():
    w = sample(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)), He(SQRT2))
    assert not torch.equal(w["0.weight"], w["1.weight"])


# ------------------------------------------------------------------------------------------- orthogonal

KERNELS = {
    "square": (40, 40), "wide": (30, 50), "tall": (50, 30), "series": (16, 4, 9), "images": (60, 3, 4, 3), "row": (1, 7),
}  # fmt: skip


@pytest.mark.parametrize("shape", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("gain", [1.0, 0.3, "auto"])
def test_rows_or_columns_are_orthogonal_and_all_singular_values_the_gain(shape, gain):
    parameter = Parameter("weight", shape, 0, "weight", 1, 1)
    w = Orthogonal(gain)(parameter, 1.7, prng.generator(KEY)).flatten(1)
    factor = 1.7 if gain == "auto" else gain
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    torch.testing.assert_close(gram, factor**2 * torch.eye(len(gram), dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.svdvals(w), torch.full((len(gram),), factor, dtype=torch.float64))


def test_an_orthogonal_stack_changes_no_length_at_any_depth():
    """Saxe, McClelland and Ganguli 2014, section 3; Gaussian matrices of the same scale lose the smallest directions."""
    deep = nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(100)))
    orthogonal, gaussian = (
        torch.linalg.multi_dot(list(sample(deep, i).values())) for i in (Orthogonal(1.0), LecunNormal(1.0))
    )
    torch.testing.assert_close(torch.linalg.svdvals(orthogonal), torch.ones(20, dtype=torch.float64))
    assert torch.linalg.svdvals(gaussian)[-1] < 1e-6


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_orthogonal_matrices_are_uniform(shape):
    """Mezzadri 2007: under Haar measure entries have mean 0 and variance 1/n; a factorization's own signs break that."""
    parameter, draws = Parameter("weight", shape, 0, "weight", 1, 1), 4000
    generator = prng.generator(KEY)
    q = torch.stack([Orthogonal(1.0)(parameter, 1.0, generator) for _ in range(draws)])
    n = max(shape)
    assert q.mean(0).abs().max() < 4.5 / math.sqrt(draws * n)
    assert (q.square().mean(0) - 1 / n).abs().max() < 4.5 * math.sqrt(2 / (n * (n + 2)) / draws)
    if shape == (3, 3):
        trace = q.diagonal(dim1=1, dim2=2).sum(-1)
        assert abs(trace.square().mean() - 1) < 4.5 * math.sqrt(2 / draws)
        assert abs(torch.linalg.det(q).mean()) < 4.5 / math.sqrt(draws)


# ------------------------------------------------------------------------------------------- sparse


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("nonzero", "std"), [(1, 1.0), (15, 1.0), (15, 0.2)])
def test_each_unit_has_exactly_this_many_weights(layer, nonzero, std):
    model = LAYERS[layer]
    w = sample(nn.Sequential(model), Sparse(nonzero, std))["0.weight"]
    rows = w.flatten(1)
    assert (rows.count_nonzero(1) == nonzero).all()
    values = rows[rows != 0]
    n = len(values)
    assert abs(values.mean()) < 4 * std / math.sqrt(n)
    assert abs(values.var() / std**2 - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv1d(6, 4, 3, groups=2), (6, 3)), (nn.ConvTranspose1d(8, 6, 3), (8, 1)),
     (nn.ConvTranspose2d(8, 6, 2, groups=2), (8, 1, 1))],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_every_output_of_a_convolution_has_the_same_number_of_nonzero_weights(layer, shape):
    """Counted by the gradient of each output channel for positive inputs."""
    outputs = layer.double()(torch.ones(1, *shape, dtype=torch.float64))[0].flatten(1)
    nonzero = sample(nn.Sequential(layer), Sparse(5, 1.0))["0.weight"] != 0
    for output in outputs:
        (g,) = torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)
        assert (nonzero & (g != 0)).sum() == 5


def test_a_unit_with_fewer_inputs_has_all_of_them():
    w = sample(nn.Sequential(nn.Linear(7, 5), nn.Conv1d(2, 3, 2)), Sparse(15, 1.0))
    assert w["0.weight"].all()
    assert w["1.weight"].all()


def test_the_inputs_of_a_unit_are_chosen_evenly():
    """Each of 20 inputs is among the 5 of a unit with probability 1/4, and two of them together with 1/4 * 4/19."""
    chosen = (sample(nn.Linear(20, 20_000), Sparse(5, 1.0))["weight"] != 0).double()
    together = chosen.T @ chosen / len(chosen)
    wanted = torch.full((20, 20), 1 / 19).fill_diagonal_(1 / 4).double()
    assert ((together - wanted).abs() < 4.5 * (wanted * (1 - wanted) / len(chosen)).sqrt()).all()


# ------------------------------------------------------------------------------------------- random walk


def measure_drift(init, width, units, depth=150, nets=60):
    """Return the mean change of log |gradient|^2 per layer and its standard error; slopes of a ReLU net are random.

    Sussillo and Abbott 2014: the vector goes back through D f'(z) and W, and the walk is the logarithm of its length.
    """
    generator = torch.Generator().manual_seed(3)
    parameter = Parameter("weight", (nets, width, width), 0, "weight", width, width)  # one matrix for each net
    change = torch.zeros(nets, dtype=torch.float64)
    g = torch.randn(nets, width, dtype=torch.float64, generator=generator)
    for _ in range(depth):
        w = init(parameter, 1.0, generator).double()
        slopes = torch.rand(g.shape, generator=generator) < 0.5 if units == "relu" else 1.0
        back = torch.einsum("ni,nij->nj", g * slopes, w)
        change += (back.square().sum(1) / g.square().sum(1)).log()
        g = back / back.norm(dim=1, keepdim=True)
    each = change / depth
    return each.mean(), each.std() / math.sqrt(nets)


@pytest.mark.parametrize("units", ["linear", "relu"])
def test_the_logarithm_of_a_gradient_walks_without_drift(units):
    """Through one matrix it is log(g^2 / N) + log chi^2 of the active units; He's and LeCun's variances let it sink."""
    width = 30
    mean, error = measure_drift(RandomWalk(units), width, units)
    assert abs(mean) < 4 * error + 0.0015  # how far the paper's fit is off at this width
    other, error = measure_drift(He(SQRT2) if units == "relu" else LecunNormal(1.0), width, units)
    assert other < -10 * error
    assert abs(other + (2.5 if units == "relu" else 1) / width) < 4 * error + 0.006


@pytest.mark.parametrize("n", [10, 30, 100, 1000])
def test_the_gains_of_a_random_walk_are_those_that_cancel_the_mean_logarithm(n):
    """E log chi^2_k = digamma(k/2) + log 2: of k = n units in a linear net, of k ~ Binomial(n, 1/2) > 0 in a ReLU net."""
    parameter = Parameter("weight", (1, n), 0, "weight", n, 1)
    k = torch.arange(1, n + 1, dtype=torch.float64)
    logs = torch.digamma(k / 2) + math.log(2 / n)
    p = torch.distributions.Binomial(n, torch.tensor(0.5, dtype=torch.float64)).log_prob(k).softmax(0)
    for units, mean in (("linear", logs[-1]), ("relu", p @ logs)):
        unit = torch.randn(1, n, generator=prng.generator(KEY))
        g = (RandomWalk(units)(parameter, 1.0, prng.generator(KEY)) / unit).double().mean() * math.sqrt(n)
        assert abs(2 * g.log() + mean) < (0.009 if n == 10 else 0.0015)


# ------------------------------------------------------------------------------------------- plain


@pytest.mark.parametrize("make", [ConstantInit, ConstantBias])
def test_a_constant_is_everywhere(make):
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(8, 5))
    w = sample(model, make(0.25), make(-0.5))
    assert all((v == (0.25 if n.endswith("weight") else -0.5)).all() for n, v in w.items())


def test_units_with_equal_weights_keep_them():
    """The gradients of its units are equal too, so the network is equivalent to one of width one."""
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    model.load_state_dict(sample(model, ConstantInit(0.3)))
    model(x).square().mean().backward()
    torch.testing.assert_close(model[0].weight.grad, model[0].weight.grad[:1].expand(6, 5))
    assert model[0].weight.grad.all()


def test_weights_and_biases_are_sampled_separately():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(8, 5))
    own = {n: p.detach().double() for n, p in model.named_parameters()}
    assert not any(v.any() for v in sample(model, ZerosInit()).values())
    for init, bias in (
        (KeepModuleInit(), KeepModuleBias()),
        (Normal(1.0), KeepModuleBias()),
        (KeepModuleInit(), ZerosBias()),
    ):
        for n, v in sample(model, init, bias).items():
            keeps = isinstance(init, KeepModuleInit) if n.endswith("weight") else isinstance(bias, KeepModuleBias)
            assert torch.equal(v, own[n]) is keeps


def test_normalization_parameters_keep_their_own_start():
    model = nn.Sequential(nn.Linear(5, 4), BatchNorm(4), nn.LayerNorm(4))
    w = sample(model, Normal(1.0))
    for layer in ("1", "2"):
        assert (w[f"{layer}.weight"] == 1).all()
        assert (w[f"{layer}.bias"] == 0).all()


def test_initial_weights_do_not_use_the_global_generator():
    model = nn.Linear(5, 4)
    before = torch.get_rng_state()
    for name in list_options("init"):
        sample(model, make_option("init", name))
    assert torch.equal(torch.get_rng_state(), before)

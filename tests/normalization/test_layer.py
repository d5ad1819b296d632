"""Layer normalization against its formula, one example at a time, in float64."""

import pytest
import torch
from helpers import BLOBS, build_experiment, load_weights, train_runs

from dlopt.base.layout import Layout
from dlopt.normalization.layer import LayerNormalization

SHAPES = {"features": (16, 5), "series": (6, 5, 7), "images": (4, 5, 3, 6)}
shapes = pytest.mark.parametrize("name", SHAPES)


def setting(name, eps=1e-5):
    """The module, with some gamma and beta, and inputs of some other mean and scale."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    module = LayerNormalization(eps)(5, len(shape) - 2).double()
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    return module, 3.0 * torch.randn(shape, dtype=torch.float64) + 2.0


@shapes
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_outputs_are_those_of_the_formula_for_each_example(name, eps):
    """Ba, Kiros and Hinton 2016, equations 3 and 4, the biased variance, eps inside the root."""
    module, x = setting(name, eps)
    y = module(x)
    for i in range(len(x)):
        mean = x[i].sum() / x[i].numel()
        var = (x[i] - mean).square().sum() / x[i].numel()
        for k in range(5):
            expected = module.weight[k] * (x[i, k] - mean) / (var + eps).sqrt() + module.bias[k]
            torch.testing.assert_close(y[i, k], expected)


@shapes
def test_each_example_has_mean_zero_and_variance_one_before_gamma_and_beta(name):
    x = setting(name)[1]
    y = LayerNormalization(1e-12)(5, x.ndim - 2).double()(x).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(len(x), dtype=torch.float64))
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(len(x), dtype=torch.float64))


@shapes
def test_an_example_does_not_see_the_others_nor_whether_it_is_trained_on(name):
    module, x = setting(name)
    whole = module(x)
    assert torch.equal(module.eval()(x), whole)
    torch.testing.assert_close(torch.cat([module(one.unsqueeze(0)) for one in x]), whole)
    assert not list(module.buffers())


@shapes
def test_scale_and_offset_of_an_example_do_not_matter(name):
    module, x = setting(name, eps=1e-12)
    torch.testing.assert_close(module(7.0 * x - 3.0), module(x))


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_features_make_beta_and_a_finite_gradient(name, dtype):
    module, _ = setting(name)
    x = torch.full(SHAPES[name], 0.1, dtype=dtype).requires_grad_()
    module.to(dtype)
    y = module(x)
    expected = module.bias.view(-1, *[1] * (x.ndim - 2)).expand_as(y)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)
    assert torch.autograd.grad(y.square().sum(), x)[0].isfinite().all()


@shapes
def test_second_derivatives_pass_a_numerical_check(name):
    module, x = setting(name)
    assert torch.autograd.gradgradcheck(module, (x[:2].requires_grad_(),))


@shapes
def test_names_are_torchs_and_gamma_and_beta_are_no_weights(name):
    module = setting(name)[0]
    assert {n: tuple(v.shape) for n, v in module.state_dict().items()} == {"weight": (5,), "bias": (5,)}
    assert {p.kind for p in Layout.of(module)} == {"norm"}


def net(kind, *overrides):
    """A small run on features or on series."""
    series = ("+data.shape=[2,9]", "arch=cnn", "arch.channels=[3,3]", "arch.kernels=[3,2]")
    problem = [o for o in BLOBS if not o.startswith("arch")]
    return build_experiment(*problem, *(series if kind == "series" else BLOBS), "normalization=layer", *overrides)


@pytest.mark.parametrize("kind", ["features", "series"])
def test_lanes_equal_runs_alone(kind, tmp_path):
    runs = [net(kind, "precision=float64", f"seed={i}") for i in range(3)]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", runs[i])
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["features", "series"])
def test_it_trains_in_bfloat16(kind, tmp_path):
    (summary,), (run,) = train_runs(tmp_path, net(kind, "precision=bfloat16", "epochs=20", "optimizer.lr=0.02"))
    assert summary["status"] == "done"
    assert summary["test/accuracy"] > 0.6
    assert all(v.dtype == torch.float32 for v in run.load("last")["model"].values())

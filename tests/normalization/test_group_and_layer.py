"""Group and layer normalization against their formula, one group of one example at a time, in float64."""

from functools import partial

import pytest
import torch
from helpers import BLOBS, build_experiment, load_weights, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.normalization.group import GroupNormalization
from dlopt.normalization.layer import LayerNormalization

SHAPES = {"features": (5, 6), "series": (3, 6, 7), "images": (2, 6, 3, 5)}
KINDS = {
    "layer": (LayerNormalization, 1), **{f"group {n}": (partial(GroupNormalization, n), n) for n in (1, 2, 3)}
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)
shapes = pytest.mark.parametrize("name", SHAPES)


def make(kind, name, eps=1e-5):
    """The module with random gamma and beta, and inputs with another mean and scale."""
    module = KINDS[kind][0](eps)(6, len(SHAPES[name]) - 2).double()
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    return module, 3.0 * torch.randn(SHAPES[name], dtype=torch.float64) + 2.0


@kinds
@shapes
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_outputs_are_those_of_the_formula_for_each_group_of_each_example(kind, name, eps):
    """Wu and He 2018, equations 1, 2, 6 and 7: k and i are in one group if floor(k G / C) = floor(i G / C).

    Ba, Kiros and Hinton 2016, equations 3 and 4, for one group: the biased variance, eps inside the root.
    """
    module, x = make(kind, name, eps)
    groups, y = KINDS[kind][1], module(x)
    for i in range(len(x)):
        for c in range(6):
            group = torch.stack([x[i, k] for k in range(6) if k * groups // 6 == c * groups // 6])
            mean = group.sum() / group.numel()
            var = (group - mean).square().sum() / group.numel()
            torch.testing.assert_close(
                y[i, c], module.weight[c] * (x[i, c] - mean) / (var + eps).sqrt() + module.bias[c]
            )


def test_a_group_for_each_channel_is_instance_normalization():
    x = torch.randn(4, 6, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(GroupNormalization(6, 1e-5)(6, 2).double()(x), nn.InstanceNorm2d(6, 1e-5).double()(x))


@kinds
@shapes
def test_scale_and_offset_of_a_group_do_not_matter_nor_do_other_examples_nor_inference(kind, name):
    module, x = make(kind, name, eps=1e-12)
    factor = torch.tensor([7.0, 7.0, 1.0, 1.0, 0.1, 0.1] if kind == "group 3" else [7.0] * 6).double()
    factor = factor.view(1, 6, *[1] * (x.ndim - 2))
    y = module(x)
    torch.testing.assert_close(module(factor * x - 3.0 * factor), y)
    torch.testing.assert_close(torch.cat([module(example.unsqueeze(0)) for example in x]), y)
    assert torch.equal(module.eval()(x), y)
    assert not list(module.buffers())
    assert {n: tuple(v.shape) for n, v in module.state_dict().items()} == {"weight": (6,), "bias": (6,)}
    assert {p.kind for p in Layout.of(module)} == {"norm"}


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_features_give_beta_and_a_finite_gradient(name, dtype):
    module = make("layer", name)[0].to(dtype)
    x = torch.full(SHAPES[name], 0.1, dtype=dtype).requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, module.bias.view(-1, *[1] * (x.ndim - 2)).expand_as(y), rtol=0, atol=1e-4)
    assert torch.autograd.grad(y.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(("kind", "name"), [("layer", "features"), ("layer", "series"), ("group 3", "series")])
def test_second_derivatives_pass_a_numerical_check(kind, name):
    module, x = make(kind, name)
    assert torch.autograd.gradgradcheck(module, (x[:2].requires_grad_(),))


@pytest.mark.parametrize(
    ("groups", "features", "dims", "usable"),
    [(4, 6, 0, "use 1, 2, 3"), (4, 6, 1, "use 1, 2, 3, 6"), (6, 6, 0, "one number; use 1, 2, 3"), (12, 6, 2, "use 1, 2, 3, 6"),
     (1, 1, 0, "use normalization=batch")],
)  # fmt: skip
def test_an_impossible_number_of_groups_is_refused_with_those_that_are_possible(groups, features, dims, usable):
    with pytest.raises(ValueError, match=f"{features} features .* normalization.groups={groups}.*{usable}$"):
        GroupNormalization(groups, 1e-5)(features, dims)


def test_a_run_with_an_impossible_number_of_groups_is_refused_and_the_default_suits_the_default_nets():
    with pytest.raises(ConfigError, match=r"8 features .*normalization\.groups=5; use 1, 2, 4$"):
        build_experiment(*BLOBS, "normalization=group")
    for arch in ("cnn", "mlp"):
        build_experiment(
            "data=custom",
            "data._target_=mine.Blobs",
            "+data.shape=[1,40]",
            "batch_size=16",
            "normalization=group",
            f"arch={arch}",
        )


SERIES = ("+data.shape=[2,9]", "arch=cnn", "arch.channels=[4,4]", "arch.kernels=[3,2]")


@pytest.mark.parametrize("option", [["normalization=layer"], ["normalization=group", "normalization.groups=2"]])
def test_lanes_on_series_equal_runs_alone(option, tmp_path):
    common = (*(o for o in BLOBS if not o.startswith("arch")), *SERIES, *option, "precision=float64")
    runs = [build_experiment(*common, f"seed={i}") for i in range(2)]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    _, (alone,) = train_runs(tmp_path / "alone", runs[1])
    torch.testing.assert_close(load_weights(lanes[1]), load_weights(alone), rtol=1e-9, atol=1e-9)


def test_layer_normalization_trains_in_bfloat16(tmp_path):
    experiment = build_experiment(*BLOBS, "normalization=layer", "precision=bfloat16", "epochs=20", "optimizer.lr=0.02")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    assert summary["test/accuracy"] > 0.6
    assert all(v.dtype == torch.float32 for v in run.load("last")["model"].values())

"""Group normalization against its formula, one group at a time, and its limits, in float64."""

import pytest
import torch
from helpers import BLOBS, build_experiment, load_weights, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.normalization.group import GroupNormalization
from dlopt.normalization.layer import LayerNormalization

SHAPES = {"features": (16, 6), "series": (6, 6, 7), "images": (4, 6, 3, 5)}
shapes = pytest.mark.parametrize("name", SHAPES)


def setting(name, groups, eps=1e-5):
    """The module, with some gamma and beta, and inputs of some other mean and scale."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    module = GroupNormalization(groups, eps)(6, len(shape) - 2).double()
    with torch.no_grad():
        module.weight.normal_()
        module.bias.normal_()
    return module, 3.0 * torch.randn(shape, dtype=torch.float64) + 2.0


@shapes
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_outputs_are_those_of_the_formula_for_each_group_of_each_example(name, groups, eps):
    """Wu and He 2018, equations 1, 2, 6 and 7: k and i lie in one group if floor(k G / C) = floor(i G / C)."""
    module, x = setting(name, groups, eps)
    y = module(x)
    for i in range(len(x)):
        for c in range(6):
            group = torch.stack([x[i, k] for k in range(6) if k * groups // 6 == c * groups // 6])
            mean = group.sum() / group.numel()
            var = (group - mean).square().sum() / group.numel()
            expected = module.weight[c] * (x[i, c] - mean) / (var + eps).sqrt() + module.bias[c]
            torch.testing.assert_close(y[i, c], expected)


@shapes
def test_one_group_is_layer_normalization(name):
    module, x = setting(name, 1)
    layer = LayerNormalization(1e-5)(6, x.ndim - 2).double()
    layer.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), layer(x))


def test_a_group_for_each_channel_is_instance_normalization():
    x = torch.randn(4, 6, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(GroupNormalization(6, 1e-5)(6, 2).double()(x), nn.InstanceNorm2d(6, 1e-5).double()(x))


@shapes
def test_scale_and_offset_of_one_group_do_not_matter_nor_do_other_examples(name):
    module, x = setting(name, 3, eps=1e-12)
    factor = torch.tensor([7.0, 7.0, 1.0, 1.0, 0.1, 0.1]).double().view(1, 6, *[1] * (x.ndim - 2))
    whole = module(x)
    torch.testing.assert_close(module(factor * x - 3.0 * factor), whole)
    torch.testing.assert_close(torch.cat([module(one.unsqueeze(0)) for one in x]), whole)
    assert torch.equal(module.eval()(x), whole)
    assert not list(module.buffers())
    assert {p.kind for p in Layout.of(module)} == {"norm"}


@pytest.mark.parametrize(
    ("groups", "features", "dims", "usable"),
    [(4, 6, 0, "use 1, 2, 3"), (4, 6, 1, "use 1, 2, 3, 6"), (6, 6, 0, "one number; use 1, 2, 3"), (12, 6, 2, "use 1, 2, 3, 6"),
     (1, 1, 0, "use normalization=batch")],
)  # fmt: skip
def test_groups_that_cannot_be_are_refused_with_those_that_can(groups, features, dims, usable):
    with pytest.raises(ValueError, match=f"{features} features .* normalization.groups={groups}.*{usable}$"):
        GroupNormalization(groups, 1e-5)(features, dims)


def test_a_run_with_such_groups_is_not_started():
    with pytest.raises(ConfigError, match=r"8 features .*normalization\.groups=5; use 1, 2, 4$"):
        build_experiment(*BLOBS, "normalization=group")


def test_the_default_suits_the_default_nets():
    for arch in ("cnn", "mlp"):
        build_experiment("normalization=group", f"arch={arch}")


@pytest.mark.parametrize("series", [False, True])
def test_lanes_equal_runs_alone(series, tmp_path):
    problem = [o for o in BLOBS if not o.startswith("arch")] if series else BLOBS
    net = ("+data.shape=[2,9]", "arch=cnn", "arch.channels=[4,4]", "arch.kernels=[3,2]") if series else ()
    common = (*problem, *net, "normalization=group", "normalization.groups=2", "precision=float64")
    runs = [build_experiment(*common, f"seed={i}") for i in range(3)]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", runs[i])
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)

"""Batch normalization against torch's, in float64."""

import pytest
import torch
from helpers import build_experiment
from torch import nn

from dlopt.config.problems import ConfigError
from dlopt.normalization.batch import BatchNorm, BatchNormalization

SHAPES = {
    "features": ((16, 5), nn.BatchNorm1d),
    "series": ((6, 5, 7), nn.BatchNorm1d),
    "images": ((4, 5, 3, 6), nn.BatchNorm2d),
}
shapes = pytest.mark.parametrize("name", SHAPES)


def pair(name, eps=1e-5, momentum=0.1):
    """Return our module and torch's with the same gamma and beta, and a function that draws inputs."""
    shape, theirs = SHAPES[name]
    ours, theirs = BatchNormalization(eps, momentum)(5, len(shape) - 2).double(), theirs(5, eps, momentum).double()
    with torch.no_grad():
        ours.weight.normal_()
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return ours, theirs, lambda: 3.0 * torch.randn(shape, dtype=torch.float64) + 2.0


@shapes
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_outputs_and_gradients_are_torchs(name, eps):
    ours, theirs, draw = pair(name, eps)
    x = draw()
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = ours(mine), theirs(other)
    torch.testing.assert_close(a, b)
    direction = torch.randn_like(a)
    gradients = torch.autograd.grad(a, [mine, ours.weight, ours.bias], direction)
    torch.testing.assert_close(gradients, torch.autograd.grad(b, [other, theirs.weight, theirs.bias], direction))


@shapes
def test_second_derivatives_pass_a_numerical_check(name):
    ours, _, draw = pair(name)
    x = draw()[:3].requires_grad_()
    assert torch.autograd.gradgradcheck(ours, (x,))


@shapes
@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_running_statistics_after_steps_and_inference_are_torchs(name, momentum):
    ours, theirs, draw = pair(name, momentum=momentum)
    for _ in range(5):
        x = draw()
        ours(x)
        theirs(x)
        for buffer, value in ours.batch_stats.items():
            getattr(ours, buffer).lerp_(value, momentum)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    x = draw()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@shapes
def test_a_forward_pass_leaves_the_buffers_alone(name):
    ours, _, draw = pair(name)
    before = {n: b.clone() for n, b in ours.named_buffers()}
    ours(draw())
    ours.eval()(draw())
    assert all(torch.equal(b, before[n]) for n, b in ours.named_buffers())
    assert ours.batch_stats.keys() == before.keys()
    assert not any(value.requires_grad for value in ours.batch_stats.values())


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_value_in_each_channel_stays_finite(shape, dtype):
    ours = BatchNorm(3).to(dtype)
    x = torch.tensor([-5.0, 0.0, 1e4], dtype=dtype).view(shape).requires_grad_()
    y = ours(x)
    rounding = 4 * torch.finfo(dtype).eps * 1e4 / ours.eps**0.5  # of x - mean, before it is divided by sqrt(eps)
    torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=rounding)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(g).all()
    torch.testing.assert_close(ours.batch_stats["running_mean"], x.detach().flatten())
    assert torch.isfinite(ours.batch_stats["running_var"]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_channel_stays_finite_and_its_variance_is_not_negative(dtype):
    ours = BatchNorm(2).to(dtype)
    y = ours(torch.tensor([[7.0, 0.1]] * 9, dtype=dtype))
    torch.testing.assert_close(y, torch.zeros_like(y), atol=1e-2, rtol=0)
    assert (ours.batch_stats["running_var"] >= 0).all()
    torch.testing.assert_close(ours.batch_stats["running_var"], torch.zeros(2, dtype=dtype), atol=1e-9, rtol=0)


def test_the_names_are_torchs_so_that_a_state_dict_fits():
    ours, theirs = BatchNorm(4).state_dict(), nn.BatchNorm1d(4).state_dict()
    assert theirs.keys() - ours.keys() == {"num_batches_tracked"}
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


NET = ("data=custom", "data._target_=mine.Blobs", "normalization=batch")


@pytest.mark.parametrize(("overrides", "words"), [
    (["arch=mlp", "batch_size=1"], "a mini-batch of one example, in which hidden.1 has one number of each feature"),
    (["arch=mlp", "batch_size=47"], "the last of an epoch of one example.* or data.drop_last=true"),
    (["arch=custom", "arch._target_=mine.NormDropoutNet", "batch_size=1"], "in which norm has one number"),
])  # fmt: skip
def test_a_mini_batch_in_which_every_feature_is_one_number_is_refused(overrides, words):
    with pytest.raises(ConfigError, match=words) as error:
        build_experiment(*NET, *overrides)
    assert [key for key, _ in error.value.problems] == ["batch_size"]


@pytest.mark.parametrize("overrides", [
    ["arch=mlp", "batch_size=47", "data.drop_last=true"], ["arch=mlp", "batch_size=46"], ["arch=mlp", "batch_size=full"],
    ["arch=mlp", "batch_size=1", "normalization=layer"],
    ["arch=cnn", "batch_size=1", "+data.shape=[2,6]", "arch.channels=[3]", "arch.kernels=[3]"],
])  # fmt: skip
def test_a_mini_batch_with_something_to_normalize_over_is_accepted(overrides):
    assert build_experiment(*NET, *overrides)

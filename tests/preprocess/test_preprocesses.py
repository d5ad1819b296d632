"""Preprocessing: what holds for every option of the group."""

import pytest
import torch
from helpers import composed, options
from hydra.utils import instantiate

NAMES = [name for name in options("preprocess") if name != "none"]
names = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])


def made(name):
    return instantiate(composed(f"preprocess={name}").preprocess[name])


def drawn(count, shape, dtype=torch.float64):
    torch.manual_seed(0)
    return (torch.randn(count, *shape) * torch.rand(shape) * 9 + torch.randn(shape)).to(dtype)


@names
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_the_inputs_left_as_they_were(name, shape, dtype):
    part, x = made(name), drawn(20, shape, dtype)
    before = x.clone()
    y = part.apply(x, part.fit(x))
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert torch.equal(x, before)
    assert not torch.equal(y, x)


@names
@shapes
def test_an_example_is_transformed_by_the_statistics_alone(name, shape):
    part, x, other = made(name), drawn(20, shape), drawn(30, shape) * 3 + 1
    statistics = part.fit(x)
    assert all(isinstance(v, torch.Tensor) and v.dtype == x.dtype for v in statistics.values())
    torch.testing.assert_close(part.apply(other[:1], statistics), part.apply(other, statistics)[:1])


@names
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7, 1e6 / 3, 1e-6 / 3])
def test_what_does_not_vary_becomes_zero_and_other_values_stay_finite(name, shape, dtype, constant):
    part, x = made(name), drawn(1000, shape, dtype)
    x[:, 0] = constant  # one feature, or one channel
    statistics = part.fit(x)
    y = part.apply(x, statistics)
    torch.testing.assert_close(y[:, 0], torch.zeros_like(y[:, 0]), rtol=0, atol=abs(constant) * 1e-6)
    assert part.apply(x + 1.0, statistics).isfinite().all()


@names
@shapes
def test_the_origin_of_each_feature_does_not_matter(name, shape):
    part, x = made(name), drawn(50, shape)
    offset = torch.randn(shape[0], *[1] * (len(shape) - 1), dtype=torch.float64)
    one, other = (part.apply(z, part.fit(z)) for z in (x, x + offset))
    torch.testing.assert_close(one, other)

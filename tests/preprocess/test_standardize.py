"""Standardization: zero mean and unit variance by the training split's statistics alone."""

import pytest
import torch

from dlopt.preprocess.standardize import Standardize


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_features_get_zero_mean_and_unit_variance(shape, dtype):
    torch.manual_seed(0)
    x = (torch.randn(200, *shape) * 10 ** torch.linspace(-3, 3, 200).unsqueeze(-1)[0] + torch.randn(shape)).to(dtype)
    y = Standardize().apply(x, Standardize().fit(x))
    assert y.dtype == dtype
    assert y.shape == x.shape
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=dtype), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(shape, dtype=dtype), rtol=1e-3, atol=0)


def test_the_statistics_are_those_of_the_fitted_split_alone():
    torch.manual_seed(0)
    train, test = torch.randn(100, 3, dtype=torch.float64), 5 + 2 * torch.randn(50, 3, dtype=torch.float64)
    statistics = Standardize().fit(train)
    expected = (test - train.mean(0)) / train.std(0, correction=0)
    torch.testing.assert_close(Standardize().apply(test, statistics), expected)
    torch.testing.assert_close(Standardize().apply(test[:1], statistics), expected[:1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -3.7, 1e6 / 3, 1e-6 / 3, 1e30])
def test_a_constant_feature_is_only_centred(dtype, constant):
    x = torch.cat([torch.full((1000, 1), constant), torch.randn(1000, 1)], dim=1).to(dtype)
    statistics = Standardize().fit(x)
    y = Standardize().apply(x, statistics)
    assert statistics["sigma"][0] == 1.0
    assert y.isfinite().all()
    torch.testing.assert_close(y[:, 0], torch.zeros_like(y[:, 0]), rtol=0, atol=abs(constant) * 1e-6)
    seen = x[:, :1] + 1.0
    assert Standardize().apply(torch.cat([seen, seen], 1), statistics).isfinite().all()


def test_a_small_but_real_spread_is_no_constant():
    x = torch.tensor([[1.0], [1.0001]]).repeat(50, 1)
    y = Standardize().apply(x, Standardize().fit(x))
    torch.testing.assert_close(y.abs(), torch.ones_like(y), rtol=1e-2, atol=0)


def test_one_example_alone_has_no_spread_and_stays_finite():
    x = torch.randn(1, 4)
    torch.testing.assert_close(Standardize().apply(x, Standardize().fit(x)), torch.zeros(1, 4))


def test_inputs_are_left_as_they_were():
    x = torch.randn(20, 3)
    before = x.clone()
    Standardize().apply(x, Standardize().fit(x))
    assert torch.equal(x, before)


def test_units_do_not_matter():
    torch.manual_seed(0)
    x = torch.randn(100, 4, dtype=torch.float64)
    scale, offset = torch.tensor([1e-3, 1.0, 50.0, -2.0]).double(), torch.tensor([0.0, 7.0, -1.0, 3.0]).double()
    one, other = (Standardize().apply(z, Standardize().fit(z)) for z in (x, scale * x + offset))
    torch.testing.assert_close(other, one * scale.sign())

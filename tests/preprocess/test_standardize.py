"""Standardization of features and of channels, by the statistics of the training split."""

import pytest
import torch

from dlopt.preprocess._feature_stats import mean_and_std
from dlopt.preprocess.per_channel import PerChannel
from dlopt.preprocess.standardize import Standardize


def scale(x, option=None):
    option = option or Standardize()
    return option.apply(x, option.fit(x))


@pytest.mark.parametrize(("of_channels", "dims"), [(False, (0,)), (True, (0, 2, 3))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [9, 4, 1])
def test_mean_and_deviation_equal_those_of_numpy(of_channels, dims, dtype, size):
    x = (torch.randn(9, 3, 4, 5) * 3 + 2).to(dtype)
    mu, sigma = mean_and_std(x.split(size), of_channels=of_channels)
    exact = x.double().numpy()
    torch.testing.assert_close(mu, torch.from_numpy(exact.mean(dims, keepdims=True)[0]))
    torch.testing.assert_close(sigma, torch.from_numpy(exact.std(dims, keepdims=True)[0]))


def test_the_deviation_of_a_constant_is_one_and_a_small_deviation_stays():
    x = torch.tensor([[0.1, 0.1], [0.1, 0.1001], [0.1, 0.1]])
    for chunks in ([x], x.split(1)):
        _, sigma = mean_and_std(chunks)
        assert sigma[0] == 1.0
        assert 4e-5 < sigma[1] < 6e-5


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_features_get_zero_mean_and_unit_variance(shape, dtype):
    x = (torch.randn(200, *shape) * 10 ** torch.linspace(-3, 3, shape[-1]) + torch.randn(shape)).to(dtype)
    y = scale(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=dtype), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(shape, dtype=dtype), rtol=1e-3, atol=0)


def test_the_statistics_are_those_of_the_fitted_split():
    train, test = torch.randn(100, 3, dtype=torch.float64), 5 + 2 * torch.randn(50, 3, dtype=torch.float64)
    expected = (test - train.mean(0)) / torch.from_numpy(train.numpy().std(0))
    for option in (Standardize(), PerChannel()):
        torch.testing.assert_close(option.apply(test, option.fit(train)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3, 1e-6 / 3, 1e30])
def test_a_constant_feature_is_only_centred(dtype, constant):
    x = torch.cat([torch.full((1000, 1), constant), torch.randn(1000, 1)], dim=1).to(dtype)
    statistics = Standardize().fit(x)
    y = Standardize().apply(x, statistics)
    assert statistics["sigma"][0] == 1.0
    assert y.isfinite().all()
    torch.testing.assert_close(y[:, 0], torch.zeros_like(y[:, 0]), rtol=0, atol=abs(constant) * 1e-6)


def test_a_small_deviation_is_not_a_constant_and_one_example_is():
    y = scale(torch.tensor([[1.0], [1.0001]]).repeat(50, 1))
    torch.testing.assert_close(y.abs(), torch.ones_like(y), rtol=1e-2, atol=0)
    torch.testing.assert_close(scale(torch.randn(1, 4)), torch.zeros(1, 4))


def test_units_do_not_matter():
    x = torch.randn(100, 4, dtype=torch.float64)
    factor, offset = torch.tensor([1e-3, 1.0, 50.0, -2.0]).double(), torch.tensor([0.0, 7.0, -1.0, 3.0]).double()
    torch.testing.assert_close(scale(factor * x + offset), scale(x) * factor.sign())


@pytest.mark.parametrize("shape", [(2, 7), (3, 4, 5)])
def test_a_channel_is_standardized_by_all_its_numbers(shape):
    x = torch.randn(50, *shape, dtype=torch.float64) * 3 + torch.arange(shape[-1])
    y = scale(x, PerChannel())
    for c in range(shape[0]):
        numbers = x[:, c].numpy()
        torch.testing.assert_close(y[:, c], (x[:, c] - float(numbers.mean())) / float(numbers.std()))


def test_statistics_of_channels_apply_to_data_of_other_lengths():
    statistics = PerChannel().fit(torch.randn(30, 2, 7))
    assert {tuple(v.shape) for v in statistics.values()} == {(2, 1)}
    assert PerChannel().apply(torch.randn(3, 2, 9), statistics).shape == (3, 2, 9)

"""Centring: zero mean of each feature, and nothing else."""

import pytest
import torch

from dlopt.preprocess.center import Center


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
def test_each_feature_gets_zero_mean_and_keeps_its_differences(shape):
    x = torch.randn(200, *shape, dtype=torch.float64) * 3 + torch.randn(shape, dtype=torch.float64)
    y = Center().apply(x, Center().fit(x))
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=torch.float64))
    torch.testing.assert_close(y[1:] - y[:-1], x[1:] - x[:-1])


def test_the_mean_is_that_of_the_fitted_split_alone():
    train, test = torch.randn(100, 3, dtype=torch.float64), 5 + torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(Center().apply(test, Center().fit(train)), test - train.mean(0))


def test_the_mean_of_many_large_numbers_is_exact_in_float32():
    x = 1e4 + torch.randn(100_000, 4)
    assert torch.equal(Center().fit(x)["mu"], x.double().mean(0).float())

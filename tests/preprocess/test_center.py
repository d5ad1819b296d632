"""Centring by feature, and by the mean image: zero mean, and no other change."""

import pytest
import torch

from dlopt.preprocess.center import Center
from dlopt.preprocess.mean_image import MeanImage


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
def test_each_feature_or_pixel_gets_zero_mean_and_keeps_its_differences(shape):
    x = torch.randn(200, *shape, dtype=torch.float64) * 3 + torch.randn(shape, dtype=torch.float64)
    y = Center().apply(x, Center().fit(x))
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=torch.float64))
    torch.testing.assert_close(y[1:] - y[:-1], x[1:] - x[:-1])
    assert torch.equal(MeanImage().apply(x, MeanImage().fit(x)), y)


def test_the_mean_is_that_of_the_fitted_split():
    train, test = torch.randn(100, 3, dtype=torch.float64), 5 + torch.randn(50, 3, dtype=torch.float64)
    for option in (Center(), MeanImage()):
        torch.testing.assert_close(option.apply(test, option.fit(train)), test - train.mean(0))


def test_the_mean_of_many_large_numbers_is_exact_in_float32():
    x = 1e4 + torch.randn(100_000, 4)
    assert torch.equal(Center().fit(x)["mu"], x.double().mean(0).float())
    assert torch.equal(MeanImage().fit(x)["image"], x.double().mean(0).float())


def test_the_mean_image_has_one_number_for_each_channel_and_pixel():
    x = torch.rand(50, 3, 4, 5, dtype=torch.float64)
    assert MeanImage().fit(x)["image"].shape == (3, 4, 5)

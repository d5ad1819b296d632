"""The mean image: one number for each channel and pixel."""

import pytest
import torch

from dlopt.preprocess.center import Center
from dlopt.preprocess.mean_image import MeanImage
from dlopt.preprocess.per_channel import PerChannel


def test_the_mean_over_the_training_images_is_subtracted_pixel_by_pixel():
    x = torch.rand(50, 3, 4, 5, dtype=torch.float64)
    statistics = MeanImage().fit(x)
    y = MeanImage().apply(x[:2], statistics)
    assert statistics["image"].shape == (3, 4, 5)
    for c in range(3):
        for i in range(4):
            for j in range(5):
                mean = sum(x[:, c, i, j].tolist()) / 50
                torch.testing.assert_close(y[:, c, i, j], x[:2, c, i, j] - mean)


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
def test_it_is_centring_whose_features_are_pixels(shape):
    x, other = torch.randn(50, *shape), torch.randn(20, *shape)
    one, two = MeanImage(), Center()
    assert torch.equal(one.apply(other, one.fit(x)), two.apply(other, two.fit(x)))


def test_it_differs_from_one_mean_for_each_channel():
    x = torch.rand(50, 1, 2, 2, dtype=torch.float64) + torch.arange(4.0).view(1, 2, 2)
    image = MeanImage().fit(x)["image"]
    assert image.flatten().diff().min() > 0.5
    torch.testing.assert_close(image.mean(), PerChannel().fit(x)["mu"].squeeze())

"""Mirror images: of which images, and how many."""

import math

import numpy as np
import pytest
import torch

from dlopt import prng
from dlopt.augmentation.flip_horizontal import FlipHorizontal

KEY = prng.key(0, "augmentation")


def test_each_image_is_itself_or_its_mirror_image():
    x = torch.randn(60, 3, 5, 4, dtype=torch.float64)
    images, _ = FlipHorizontal(0.5)(x, torch.zeros(60), KEY)
    n_flipped = 0
    for original, image in zip(x.numpy(), images.numpy(), strict=True):
        mirror = np.stack([np.fliplr(channel) for channel in original])
        assert np.array_equal(image, original) or np.array_equal(image, mirror)
        n_flipped += np.array_equal(image, mirror)
    assert 0 < n_flipped < 60


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_images_are_flipped_independently_with_probability_p(p):
    n = 40_000
    x = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    flipped = FlipHorizontal(p)(x, torch.zeros(n), KEY)[0][:, 0, 0, 0]
    assert abs(flipped.mean().item() - p) < 5 * math.sqrt(p * (1 - p) / n)
    pairs = (flipped[:-1] * flipped[1:]).mean().item()
    assert abs(pairs - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / n)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_never_and_always(width):
    x = torch.randn(50, 2, 3, width)
    assert torch.equal(FlipHorizontal(0.0)(x, torch.zeros(50), KEY)[0], x)
    assert torch.equal(FlipHorizontal(1.0)(x, torch.zeros(50), KEY)[0], x.flip(-1))

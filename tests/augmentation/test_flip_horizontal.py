"""Mirror images: which, how many, and of what."""

import math

import numpy as np
import pytest
import torch

from dlopt import prng
from dlopt.augmentation.flip_horizontal import FlipHorizontal

KEY = prng.key(0, "augmentation")


def test_each_image_is_itself_or_its_mirror_image():
    x = torch.randn(60, 3, 5, 4, dtype=torch.float64)
    made, _ = FlipHorizontal(0.5)(x, torch.zeros(60), KEY)
    flipped = 0
    for image, found in zip(x.numpy(), made.numpy(), strict=True):
        mirror = np.stack([np.fliplr(channel) for channel in image])
        assert np.array_equal(found, image) or np.array_equal(found, mirror)
        flipped += np.array_equal(found, mirror)
    assert 0 < flipped < 60


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_of_flips_is_p(p):
    n = 40_000
    x = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    flipped = FlipHorizontal(p)(x, torch.zeros(n), KEY)[0][:, 0, 0, 0]
    assert abs(flipped.mean().item() - p) < 5 * math.sqrt(p * (1 - p) / n)
    pairs = (flipped[:-1] * flipped[1:]).mean().item()  # neighbours are independent
    assert abs(pairs - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / n)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_never_and_always(width):
    x = torch.randn(50, 2, 3, width)
    assert torch.equal(FlipHorizontal(0.0)(x, torch.zeros(50), KEY)[0], x)
    assert torch.equal(FlipHorizontal(1.0)(x, torch.zeros(50), KEY)[0], x.flip(-1))

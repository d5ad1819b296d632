"""Mirror images: of which images, and how many."""

import math

import numpy as np
import pytest
import torch

from dlopt import prng
from dlopt.augmentation.flip_horizontal import FlipHorizontal
from dlopt.augmentation.flip_vertical import FlipVertical

KEY = prng.key(0, "augmentation")
FLIPS = {FlipHorizontal: (np.fliplr, -1), FlipVertical: (np.flipud, -2)}
flips = pytest.mark.parametrize("kind", FLIPS)


@flips
def test_each_image_is_itself_or_its_mirror_image(kind):
    x = torch.randn(60, 3, 5, 4, dtype=torch.float64)
    images, _ = kind(0.5)(x, torch.zeros(60), KEY)
    flip, _ = FLIPS[kind]
    n_flipped = 0
    for original, image in zip(x.numpy(), images.numpy(), strict=True):
        mirror = np.stack([flip(channel) for channel in original])
        assert np.array_equal(image, original) or np.array_equal(image, mirror)
        n_flipped += np.array_equal(image, mirror)
    assert 0 < n_flipped < 60


@flips
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_images_are_flipped_independently_with_probability_p(kind, p):
    n = 40_000
    x = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).expand(n, 1, 2, 2)
    flipped = kind(p)(x, torch.zeros(n), KEY)[0][:, 0, 0, 0].clamp(max=1)
    assert abs(flipped.mean().item() - p) < 5 * math.sqrt(p * (1 - p) / n)
    pairs = (flipped[:-1] * flipped[1:]).mean().item()
    assert abs(pairs - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / n)


@flips
@pytest.mark.parametrize("size", [1, 4, 5])
def test_never_and_always(kind, size):
    x = torch.randn(50, 2, size, size)
    assert torch.equal(kind(0.0)(x, torch.zeros(50), KEY)[0], x)
    assert torch.equal(kind(1.0)(x, torch.zeros(50), KEY)[0], x.flip(FLIPS[kind][1]))

"""Random crops against the recipe: pad, then cut a window."""

import math

import numpy as np
import pytest
import torch

from dlopt import prng
from dlopt.augmentation.crop import Crop

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}
fills = pytest.mark.parametrize("fill", FILLS)


@fills
@pytest.mark.parametrize("padding", [1, 5])
def test_each_image_is_a_window_of_the_padded_image(fill, padding):
    x = torch.randn(60, 2, 7, 6, dtype=torch.float64)
    crops, _ = Crop(padding, fill)(x, torch.zeros(60), KEY)
    offsets = range(2 * padding + 1)
    positions = []
    for image, crop in zip(x.numpy(), crops.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)], mode=FILLS[fill])
        matches = [(i, j) for i in offsets for j in offsets if np.array_equal(padded[:, i : i + 7, j : j + 6], crop)]
        assert matches  # a padding that repeats the image may have two
        positions += matches[:1]
    assert len(set(positions)) > 7


def test_every_window_is_equally_likely():
    """Read from the position of the centre of the image."""
    n, padding = 40_000, 3
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1.0
    crops, _ = Crop(padding, "zero")(x.expand(n, 1, 7, 7), torch.zeros(n), KEY)
    counts = crops.sum((0, 1))
    assert counts.sum() == n
    assert ((counts / n - 1 / 49).abs() < 5 * math.sqrt(1 / 49 / n)).all()


@fills
def test_without_padding_the_window_is_the_image(fill):
    x = torch.randn(30, 3, 5, 4)
    assert torch.equal(Crop(0, fill)(x, torch.zeros(30), KEY)[0], x)


def test_a_padding_that_could_hide_the_image_is_refused():
    x, y = torch.zeros(2, 1, 5, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"less than height and width.*got 4"):
        Crop(4, "zero")(x, y, KEY)
    Crop(3, "zero")(x, y, KEY)

"""Random crops against the recipe: pad, then cut a window."""

import math

import numpy as np
import pytest
import torch

from dlopt import prng
from dlopt.augmentation.crop import Crop

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("padding", [1, 3, 5])
def test_each_image_is_one_of_the_windows_of_the_padded_image(fill, padding):
    x = torch.randn(60, 2, 7, 6, dtype=torch.float64)
    made, _ = Crop(padding, fill)(x, torch.zeros(60), KEY)
    sides = range(2 * padding + 1)
    places = []
    for image, found in zip(x.numpy(), made.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)], mode=FILLS[fill])
        same = [(i, j) for i in sides for j in sides if np.array_equal(padded[:, i : i + 7, j : j + 6], found)]
        assert same  # a padding that repeats the image may have two that are equal
        places += same[:1]
    assert len(set(places)) > 7


def test_every_window_is_equally_likely():
    """Read off where the middle of the image lies."""
    n, padding = 40_000, 3
    x = torch.zeros(1, 1, 7, 7)
    x[..., 3, 3] = 1.0
    made, _ = Crop(padding, "zero")(x.expand(n, 1, 7, 7), torch.zeros(n), KEY)
    counts = made.sum((0, 1))
    assert counts.sum() == n
    assert ((counts / n - 1 / 49).abs() < 5 * math.sqrt(1 / 49 / n)).all()


@pytest.mark.parametrize("fill", FILLS)
def test_without_padding_there_is_one_window(fill):
    x = torch.randn(30, 3, 5, 4)
    assert torch.equal(Crop(0, fill)(x, torch.zeros(30), KEY)[0], x)


@pytest.mark.parametrize("padding", [4, 9])
def test_a_padding_that_could_hide_the_image_is_refused(padding):
    with pytest.raises(ValueError, match=f"less than height and width.*got {padding}"):
        Crop(padding, "zero")(torch.zeros(2, 1, 5, 4), torch.zeros(2), KEY)
    Crop(3, "zero")(torch.zeros(2, 1, 5, 4), torch.zeros(2), KEY)

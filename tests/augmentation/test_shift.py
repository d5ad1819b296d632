"""Shifts of series and images by whole positions against numpy's pad and a window, and their distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlopt import prng
from dlopt.augmentation._integer_shift import random_offsets, shift_by
from dlopt.augmentation.shift import Shift
from dlopt.augmentation.translate import Translate

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}
"""The names of the fills in numpy."""
fills = pytest.mark.parametrize("fill", FILLS)


def shift_by_hand(x, by, fill):
    """Shift an example (channels, *space) along each axis: a window of the sufficiently padded example."""
    reach = [abs(k) for k in by]
    if fill == "reflect":  # numpy's reflection needs two positions
        reach = [0 if n == 1 else r for n, r in zip(x.shape[1:], reach, strict=True)]
        by = [0 if n == 1 else k for n, k in zip(x.shape[1:], by, strict=True)]
    padded = np.pad(x, [(0, 0), *((r, r) for r in reach)], mode=FILLS[fill])
    window = [slice(r - k, r - k + n) for r, k, n in zip(reach, by, x.shape[1:], strict=True)]
    return padded[:, *window]


@fills
@settings(max_examples=40)
@given(space=st.lists(st.integers(1, 6), min_size=1, max_size=3), channels=st.integers(1, 3), seed=st.integers(0, 100))
def test_a_shift_is_a_window_of_the_padded_example(fill, space, channels, seed):
    """Each example by its own number of positions along each axis, also by more than its size."""
    rng = np.random.default_rng(seed)
    x, by = rng.standard_normal((4, channels, *space)), rng.integers(-9, 10, (4, len(space)))
    expected = np.stack([shift_by_hand(example, k.tolist(), fill) for example, k in zip(x, by, strict=True)])
    np.testing.assert_array_equal(shift_by(torch.tensor(x), torch.tensor(by), fill).numpy(), expected)


@pytest.mark.parametrize("most", [(1,), (9,), (4, 4), (2, 7)])
def test_every_combination_of_offsets_is_equally_likely(most):
    n = 40_000
    offsets, counts = random_offsets(KEY, most, torch.empty(n)).unique(dim=0, return_counts=True)
    expected = torch.cartesian_prod(*(torch.arange(-m, m + 1) for m in most)).reshape(-1, len(most))
    assert torch.equal(offsets, expected)
    share = 1 / len(expected)
    assert ((counts / n - share).abs() < 5 * math.sqrt(share * (1 - share) / n)).all()


@fills
def test_series_and_images_are_shifted_by_random_offsets(fill):
    """An image by at most the fraction `most` of its height and width, rounded to the nearest number of pixels."""
    series, images = torch.randn(40, 2, 30, dtype=torch.float64), torch.randn(40, 2, 8, 6, dtype=torch.float64)
    cases = ((Shift(5, fill), series, (5,)), (Shift(0, fill), series, (0,)), (Translate(0.34, fill), images, (3, 2)))
    for option, x, most in (*cases, (Translate(0.0, fill), images, (0, 0))):
        by = random_offsets(KEY, most, x)
        expected = [shift_by_hand(example, k, fill) for example, k in zip(x.numpy(), by.tolist(), strict=True)]
        np.testing.assert_array_equal(option(x, torch.zeros(40), KEY)[0].numpy(), np.stack(expected))


@pytest.mark.parametrize(
    ("most", "down", "across"), [(0.0, 0, 0), (0.04, 0, 1), (0.09, 1, 2), (0.26, 3, 5), (0.48, 5, 10)]
)
def test_the_largest_translation_is_a_fraction_of_height_and_width(most, down, across):
    """Read from where a point in the centre of an image arrives."""
    n = 5000
    x = torch.zeros(1, 1, 11, 21)
    x[..., 5, 10] = 1.0
    counts = Translate(most, "zero")(x.expand(n, 1, 11, 21), torch.zeros(n), KEY)[0].sum((0, 1))
    rows, columns = counts.sum(1).nonzero().flatten(), counts.sum(0).nonzero().flatten()
    assert rows.tolist() == list(range(5 - down, 5 + down + 1))
    assert columns.tolist() == list(range(10 - across, 10 + across + 1))
    assert (counts > 0).sum() == (2 * down + 1) * (2 * across + 1)


@pytest.mark.parametrize("percent", range(100))
def test_a_whole_number_of_percent_of_a_hundred_pixels_is_this_number(percent):
    """0.29 * 100 is 28.999999999999996."""
    x = torch.zeros(1, 1, 1, 100)
    x[..., 99] = 1.0
    shifted, _ = Translate(percent / 100, "zero")(x.expand(3000, 1, 1, 100), torch.zeros(3000), KEY)
    assert shifted.sum((0, 1, 2)).nonzero()[0].item() == 99 - percent


@pytest.mark.parametrize("most", [0.5, 0.9, 1 - 1e-9])
def test_a_part_of_a_translated_image_is_always_visible(most):
    x = torch.ones(3000, 1, 6, 5)
    y, _ = Translate(most, "zero")(x, torch.zeros(3000), KEY)
    assert y.flatten(1).any(1).all()

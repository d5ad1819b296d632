"""Whole-pixel moves against numpy's pad and a window, and the distribution of how far."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlopt import prng
from dlopt.augmentation._integer_shift import random_offsets, shift_by
from dlopt.augmentation.shift import Shift

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}
"""Each with numpy's name for it."""
fills = pytest.mark.parametrize("fill", FILLS)


def by_hand(x, by, fill):
    """One example (channels, *space), moved by so many positions along each axis: a window of what is padded enough."""
    reach = [abs(k) for k in by]
    if fill == "reflect":  # numpy's mirror needs two positions
        reach = [0 if n == 1 else r for n, r in zip(x.shape[1:], reach, strict=True)]
        by = [0 if n == 1 else k for n, k in zip(x.shape[1:], by, strict=True)]
    padded = np.pad(x, [(0, 0), *((r, r) for r in reach)], mode=FILLS[fill])
    window = [slice(r - k, r - k + n) for r, k, n in zip(reach, by, x.shape[1:], strict=True)]
    return padded[:, *window]


@fills
@settings(deadline=None, max_examples=40)
@given(
    space=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    channels=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_a_move_is_a_window_of_the_padded_example(fill, space, channels, seed):
    """Each example by its own number of positions along each axis, further than its size too."""
    draw = np.random.default_rng(seed)
    x, by = draw.standard_normal((4, channels, *space)), draw.integers(-9, 10, (4, len(space)))
    expected = np.stack([by_hand(one, k.tolist(), fill) for one, k in zip(x, by, strict=True)])
    np.testing.assert_array_equal(shift_by(torch.tensor(x), torch.tensor(by), fill).numpy(), expected)


@fills
def test_a_series_is_moved_by_what_was_drawn(fill):
    x = torch.randn(40, 2, 30, dtype=torch.float64)
    by = random_offsets(KEY, (5,), x)
    expected = [by_hand(series, k, fill) for series, k in zip(x.numpy(), by.tolist(), strict=True)]
    np.testing.assert_array_equal(Shift(5, fill)(x, torch.zeros(40), KEY)[0].numpy(), np.stack(expected))


@fills
def test_a_shift_of_at_most_nothing_is_the_identity(fill):
    x = torch.randn(30, 2, 8)
    assert torch.equal(Shift(0, fill)(x, torch.zeros(30), KEY)[0], x)


@pytest.mark.parametrize("most", [(1,), (9,), (4, 4), (2, 7)])
def test_every_move_is_equally_likely(most):
    """Along several axes independently: every combination."""
    n = 40_000
    by = random_offsets(KEY, most, torch.empty(n))
    found, counts = by.unique(dim=0, return_counts=True)
    wanted = torch.cartesian_prod(*(torch.arange(-m, m + 1) for m in most)).reshape(-1, len(most))
    assert torch.equal(found, wanted)
    share = 1 / len(wanted)
    assert ((counts / n - share).abs() < 5 * math.sqrt(share * (1 - share) / n)).all()

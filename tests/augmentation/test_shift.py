"""Shifts against numpy's roll, and the distribution of how far."""

import math

import numpy as np
import pytest
import torch

from dlopt import streams
from dlopt.augmentation.shift import Shift

KEY = streams.key(0, "augmentation")
FILLS = ["wrap", "edge", "zero"]


def by_hand(series, by, fill):
    """One series of shape (channels, length), moved to the right by so many positions."""
    moved = np.roll(series, by, axis=-1)
    length = series.shape[-1]
    by = max(-length, min(length, by))
    if fill != "wrap" and by > 0:
        moved[:, :by] = series[:, :1] if fill == "edge" else 0.0
    elif fill != "wrap" and by < 0:
        moved[:, by:] = series[:, -1:] if fill == "edge" else 0.0
    return moved


def moved_by(shifted, length, most):
    """How far each series was moved, read off where it holds the number of its position."""
    return ((shifted[:, 0, 0].long() * -1 + most) % length) - most


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("most", "length"), [(1, 9), (4, 9), (8, 9), (20, 9), (3, 1)])
def test_each_series_is_rolled_by_one_number_of_positions(fill, most, length):
    x = torch.randn(40, 3, length)
    moved, _ = Shift(most, fill)(x, torch.zeros(40), KEY)
    for series, found in zip(x.numpy(), moved.numpy(), strict=True):
        candidates = [by for by in range(-most, most + 1) if np.array_equal(by_hand(series, by, fill), found)]
        assert candidates


@pytest.mark.parametrize("fill", FILLS)
def test_all_fills_move_by_the_same_numbers(fill):
    x = torch.randn(40, 2, 30)
    by = moved_by(Shift(5, "wrap")(torch.arange(30.0).expand(40, 1, 30), torch.zeros(40), KEY)[0], 30, 5)
    expected = [by_hand(series, k, fill) for series, k in zip(x.numpy(), by.tolist(), strict=True)]
    np.testing.assert_array_equal(Shift(5, fill)(x, torch.zeros(40), KEY)[0].numpy(), np.stack(expected))


@pytest.mark.parametrize("most", [1, 4, 9])
def test_the_shift_is_uniform_from_one_end_to_the_other(most):
    n, length = 20_000, 40
    x = torch.arange(float(length)).expand(n, 1, length)
    by = moved_by(Shift(most, "wrap")(x, torch.zeros(n), KEY)[0], length, most)
    values, counts = by.unique(return_counts=True)
    assert values.tolist() == list(range(-most, most + 1))
    share = 1 / (2 * most + 1)
    assert ((counts / n - share).abs() < 4 * math.sqrt(share * (1 - share) / n)).all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_shift_of_at_most_nothing_is_the_identity(fill):
    x = torch.randn(30, 2, 8)
    assert torch.equal(Shift(0, fill)(x, torch.zeros(30), KEY)[0], x)


@pytest.mark.parametrize("fill", FILLS)
def test_the_shift_is_a_function_of_the_key(fill):
    x, y = torch.randn(30, 2, 8), torch.arange(30)
    before = x.clone()
    one, same, other = (Shift(3, fill)(x, y, key) for key in (KEY, KEY, streams.fold(KEY, 1)))
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    assert one[1] is y
    assert torch.equal(x, before)


@pytest.mark.parametrize("fill", FILLS)
def test_lanes_shift_as_runs_alone(fill):
    x, y = torch.randn(3, 20, 2, 8), torch.zeros(3, 20)
    keys = [streams.fold(KEY, i) for i in range(3)]
    together = streams.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    moved, _ = torch.vmap(Shift(3, fill))(x, y, together)
    for i, key in enumerate(keys):
        assert torch.equal(moved[i], Shift(3, fill)(x[i], y[i], key)[0])

"""Rotations against scipy's interpolation pixel by pixel, quarter turns, and the distribution of angles."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import map_coordinates

from dlopt import prng
from dlopt.augmentation.rotate import Rotate, rotate_images

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "grid-constant", "edge": "nearest", "reflect": "mirror"}
"""Each with scipy's name for it."""
fills = pytest.mark.parametrize("fill", FILLS)


def turned(x, degrees, fill="zero"):
    return rotate_images(x, torch.full((len(x),), math.radians(degrees), dtype=x.dtype), fill)


def by_hand(channel, angle, fill):
    """Each pixel from its place turned clockwise about the middle; rows run downwards."""
    height, width = channel.shape
    middle = (height - 1) / 2, (width - 1) / 2
    made = np.empty_like(channel)
    for i in range(height):
        for j in range(width):
            down, across = i - middle[0], j - middle[1]
            row = middle[0] + down * math.cos(angle) + across * math.sin(angle)
            column = middle[1] - down * math.sin(angle) + across * math.cos(angle)
            made[i, j] = map_coordinates(channel, [[row], [column]], order=1, mode=FILLS[fill])[0]
    return made


@fills
@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 5, 8), (1, 7, 4)])
def test_each_image_is_turned_by_its_own_angle(fill, shape):
    x = torch.randn(6, *shape, dtype=torch.float64)
    angles = torch.tensor([0.1, -0.3, 1.0, 2.0, -3.0, 0.0], dtype=torch.float64)
    expected = [
        np.stack([by_hand(channel, angle, fill) for channel in image])
        for image, angle in zip(x.numpy(), angles.tolist(), strict=True)
    ]
    torch.testing.assert_close(rotate_images(x, angles, fill), torch.tensor(np.stack(expected)), rtol=1e-10, atol=1e-10)


@fills
@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("size", [4, 5])
def test_quarter_turns_are_those_of_rot90(fill, turns, size):
    x = torch.randn(3, 2, size, size, dtype=torch.float64)
    torch.testing.assert_close(turned(x, 90 * turns, fill), x.rot90(turns, (-2, -1)), rtol=1e-12, atol=1e-12)


@fills
def test_half_a_turn_of_any_image_is_both_flips(fill):
    x = torch.randn(3, 2, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(turned(x, 180, fill), x.flip(-1, -2), rtol=1e-12, atol=1e-12)


@fills
@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (1, 6), (6, 1)])
def test_no_degrees_are_the_identity(fill, shape):
    x = torch.randn(20, 2, *shape, dtype=torch.float64)
    torch.testing.assert_close(Rotate(0.0, fill)(x, torch.zeros(20), KEY)[0], x, rtol=1e-12, atol=1e-12)


def test_a_small_positive_angle_turns_counter_clockwise():
    """A point to the right of the middle moves up."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4, 8] = 1.0
    assert turned(x, 45)[0, 0, :4, 5:].sum() > 0.5


@fills
def test_what_enters(fill):
    """Of an image of ones all is one, but where zeros enter at the corners."""
    made = turned(torch.ones(2, 1, 8, 8, dtype=torch.float64), 45, fill)
    assert torch.allclose(made[..., 2:6, 2:6], torch.ones((), dtype=torch.float64))
    assert (made[..., 0, 0] < 1e-12).all() if fill == "zero" else torch.allclose(made, torch.ones_like(made))


@pytest.mark.parametrize("degrees", [10.0, 90.0, 180.0])
def test_the_angle_is_uniform_to_both_sides(degrees):
    """Read off one pixel beside the middle of a plane, which interpolation leaves one: its places' own numbers."""
    n = 20_000
    places = torch.arange(5, dtype=torch.float64) - 2
    plane = torch.stack([places.expand(5, 5), places[:, None].expand(5, 5)])
    made, _ = Rotate(degrees, "edge")(plane.expand(n, 2, 5, 5), torch.zeros(n), KEY)
    across, down = made[:, :, 2, 3].T
    angles = torch.atan2(down, across).rad2deg().numpy()
    assert np.abs(angles).max() <= degrees + 1e-9
    assert stats.kstest(angles, stats.uniform(-degrees, 2 * degrees).cdf).pvalue > 1e-3

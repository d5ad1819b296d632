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
"""The names of the fills in scipy."""
fills = pytest.mark.parametrize("fill", FILLS)


def rotate(x, degrees, fill="zero"):
    return rotate_images(x, torch.full((len(x),), math.radians(degrees), dtype=x.dtype), fill)


def rotate_by_hand(channel, angle, fill):
    """Interpolate each pixel at its position turned clockwise about the centre; rows run downwards."""
    rows, columns = np.indices(channel.shape)
    center = (channel.shape[0] - 1) / 2, (channel.shape[1] - 1) / 2
    down, across = rows - center[0], columns - center[1]
    row = center[0] + down * math.cos(angle) + across * math.sin(angle)
    column = center[1] - down * math.sin(angle) + across * math.cos(angle)
    return map_coordinates(channel, [row, column], order=1, mode=FILLS[fill])


@fills
@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 5, 8), (1, 7, 4)])
def test_each_image_is_rotated_by_its_own_angle(fill, shape):
    x = torch.randn(6, *shape, dtype=torch.float64)
    angles = torch.tensor([0.1, -0.3, 1.0, 2.0, -3.0, 0.0], dtype=torch.float64)
    expected = [
        np.stack([rotate_by_hand(channel, angle, fill) for channel in image])
        for image, angle in zip(x.numpy(), angles.tolist(), strict=True)
    ]
    torch.testing.assert_close(rotate_images(x, angles, fill), torch.tensor(np.stack(expected)), rtol=1e-10, atol=1e-10)


@fills
@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4, 7), (1, 6), (6, 1)])
def test_whole_turns_are_flips_and_quarter_turns_of_squares_are_those_of_rot90(fill, shape):
    x = torch.randn(20, 2, *shape, dtype=torch.float64)
    turns = {0: x, 180: x.flip(-1, -2)} | (
        {90 * k: x.rot90(k, (-2, -1)) for k in (-1, 1, 3)} if len({*shape}) == 1 else {}
    )
    for degrees, expected in turns.items():
        torch.testing.assert_close(rotate(x, degrees, fill), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(Rotate(0.0, fill)(x, torch.zeros(20), KEY)[0], x, rtol=1e-12, atol=1e-12)


def test_a_small_positive_angle_turns_counter_clockwise():
    """A point to the right of the centre moves up."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4, 8] = 1.0
    assert rotate(x, 45)[0, 0, :4, 5:].sum() > 0.5


@fills
def test_only_zeros_enter_an_image_of_ones_and_only_with_that_fill(fill):
    y = rotate(torch.ones(2, 1, 8, 8, dtype=torch.float64), 45, fill)
    torch.testing.assert_close(y[..., 2:6, 2:6], torch.ones_like(y[..., 2:6, 2:6]))
    corners = torch.zeros_like(y[..., 0, 0]) if fill == "zero" else torch.ones_like(y[..., 0, 0])
    torch.testing.assert_close(y[..., 0, 0], corners)


@pytest.mark.parametrize("degrees", [10.0, 180.0])
def test_the_angle_is_uniform_in_both_directions(degrees):
    """Read from one pixel next to the centre of an image of positions, which interpolation keeps exact."""
    n = 20_000
    positions = torch.arange(5, dtype=torch.float64) - 2
    image = torch.stack([positions.expand(5, 5), positions[:, None].expand(5, 5)])
    y, _ = Rotate(degrees, "edge")(image.expand(n, 2, 5, 5), torch.zeros(n), KEY)
    across, down = y[:, :, 2, 3].T
    angles = torch.atan2(down, across).rad2deg().numpy()
    assert np.abs(angles).max() <= degrees + 1e-9
    assert stats.kstest(angles, stats.uniform(-degrees, 2 * degrees).cdf).pvalue > 1e-3

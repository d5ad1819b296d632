"""Shear and scale against scipy's interpolation with torchvision's matrices, and the distributions of their draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import map_coordinates

from dlopt import prng
from dlopt.augmentation import scale, shear
from dlopt.augmentation.scale import Scale
from dlopt.augmentation.shear import Shear, shear_images

KEY = prng.key(0, "augmentation")
FILLS = {"zero": "grid-constant", "edge": "nearest", "reflect": "mirror"}
"""The names of the fills in scipy."""
fills = pytest.mark.parametrize("fill", FILLS)
shapes = pytest.mark.parametrize("shape", [(2, 6, 6), (1, 5, 8), (1, 7, 4)])


def make_torchvision_matrix(factor, shear_x, shear_y):
    """Return the inverse of the matrix of torchvision's affine(angle=0, scale=factor, shear=...), columns first."""
    forward = np.array(
        [
            [math.cos(-shear_y) / math.cos(shear_y), -math.cos(-shear_y) * math.tan(shear_x) / math.cos(shear_y)],
            [math.sin(-shear_y) / math.cos(shear_y), -math.sin(-shear_y) * math.tan(shear_x) / math.cos(shear_y) + 1],
        ]
    )
    return np.linalg.inv(factor * forward)


def warp_by_hand(image, matrix, fill):
    """Interpolate each pixel at the position to which the matrix maps it, counted from the centre."""
    height, width = image.shape[-2:]
    rows, columns = np.indices((height, width))
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    position = np.stack([columns, rows], -1) - center
    column, row = np.moveaxis(position @ matrix.T + center, -1, 0)
    return np.stack([map_coordinates(channel, [row, column], order=1, mode=FILLS[fill]) for channel in image])


@fills
@shapes
def test_each_image_is_sheared_by_its_own_angles(fill, shape):
    x = torch.randn(5, *shape, dtype=torch.float64)
    a = torch.tensor([0.2, -0.7, 0.4, 0.0, 0.0], dtype=torch.float64)
    b = torch.tensor([0.0, 0.3, -0.5, 0.6, 0.0], dtype=torch.float64)
    expected = [
        warp_by_hand(image, make_torchvision_matrix(1.0, *angles), fill)
        for image, *angles in zip(x.numpy(), a.tolist(), b.tolist(), strict=True)
    ]
    actual = shear_images(x, a.tan(), b.tan(), fill)
    torch.testing.assert_close(actual, torch.tensor(np.stack(expected)), rtol=1e-10, atol=1e-10)


@fills
@shapes
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.7])
def test_each_image_is_scaled_about_its_centre(fill, shape, factor):
    x = torch.randn(3, *shape, dtype=torch.float64)
    expected = [warp_by_hand(image, make_torchvision_matrix(factor, 0.0, 0.0), fill) for image in x.numpy()]
    actual, _ = Scale(factor, factor, fill)(x, torch.zeros(3), KEY)
    torch.testing.assert_close(actual, torch.tensor(np.stack(expected)), rtol=1e-10, atol=1e-10)


def record_warps(monkeypatch, module, option, count=20_000):
    """Return the maps that an option draws."""
    maps = []
    monkeypatch.setattr(module, "warp_images", lambda x, r, fill, conjugate=None: maps.append((r, conjugate)) or x)
    option(torch.zeros(count, 1, 2, 2, dtype=torch.float64), torch.zeros(count), KEY)
    return maps[0]


def test_angles_are_uniform_in_both_directions_and_independent(monkeypatch):
    rotation, conjugate = record_warps(monkeypatch, shear, Shear(30.0, 60.0, "zero"))
    across, down = (conjugate.imag - rotation.imag), (conjugate.imag + rotation.imag)
    a, b = across.atan().rad2deg().numpy(), down.atan().rad2deg().numpy()
    assert stats.kstest(a, stats.uniform(-30, 60).cdf).pvalue > 1e-3
    assert stats.kstest(b, stats.uniform(-60, 120).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))


def test_the_factor_is_uniform(monkeypatch):
    rotation, _ = record_warps(monkeypatch, scale, Scale(0.5, 2.0, "zero"))
    assert stats.kstest((1 / rotation.real).numpy(), stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("option", [Shear(0.0, 0.0, "zero"), Scale(1.0, 1.0, "zero")])
def test_nothing_changes_without_strength(option):
    x = torch.randn(10, 2, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(option(x, torch.zeros(10), KEY)[0], x, rtol=1e-12, atol=1e-12)


def test_a_reversed_interval_is_refused():
    with pytest.raises(ValueError, match="low must be at most high"):
        Scale(1.2, 0.8, "zero")

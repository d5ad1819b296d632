"""Colours and tones of pixels against colorsys, Pillow and formulas written out, and the draws of TrivialAugment."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from scipy.ndimage import map_coordinates

from dlopt import prng
from dlopt.augmentation import _color, _tones, trivial_augment
from dlopt.augmentation.brightness import Brightness
from dlopt.augmentation.color_jitter import ColorJitter
from dlopt.augmentation.contrast import Contrast
from dlopt.augmentation.trivial_augment import OPERATIONS, TrivialAugment, apply_operations
from dlopt.errors import OptionError

KEY = prng.key(0, "augmentation")
channels = pytest.mark.parametrize("channels", [1, 3])


def draw_images(count=12, channels=3, size=(7, 9)):
    """Return images of 8-bit values, with gray, black and white pixels among them."""
    x = torch.randint(256, (count, channels, *size), generator=torch.Generator().manual_seed(0))
    x[:, :, 0, 0], x[:, :, 0, 1], x[:, :, 0, 2] = 0, 255, 77
    return x.double() / 255


def to_pillow(image):
    array = (image * 255).round().byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1))


def from_pillow(picture):
    array = np.atleast_3d(np.asarray(picture))
    return torch.from_numpy(np.moveaxis(array, -1, 0) / 255)


def by_pillow(x, change):
    return torch.stack([from_pillow(change(to_pillow(image))) for image in x])


# ------------------------------------------------------------------------------------------- colours


@channels
@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (_color.adjust_brightness, ImageEnhance.Brightness),
        (_color.adjust_contrast, ImageEnhance.Contrast),
        (_color.adjust_saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_pillow_agrees_up_to_its_rounding(channels, adjust, enhance, factor):
    """Two roundings: of the brightness, times 1 - f, and of the result."""
    x = draw_images(channels=channels)
    expected = by_pillow(x, lambda picture: enhance(picture).enhance(factor))
    actual = adjust(x, torch.full((len(x),), factor, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=0, atol=(1 + abs(1 - factor)) / 255)


def test_each_image_has_its_own_factor():
    """The formulas written out, pixel by pixel."""
    x = draw_images(5)
    factor = torch.tensor([0.0, 0.3, 1.0, 1.4, 3.0], dtype=torch.float64)
    for i, f in enumerate(factor.tolist()):
        gray = sum(w * x[i, c] for c, w in enumerate((0.2989, 0.587, 0.114)))
        for adjust, other in (
            (_color.adjust_brightness, torch.zeros(())),
            (_color.adjust_contrast, gray.mean()),
            (_color.adjust_saturation, gray),
        ):
            expected = (f * x[i] + (1 - f) * other).clamp(0, 1)
            torch.testing.assert_close(adjust(x, factor)[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.3, 0.5])
def test_the_hue_turns_as_in_colorsys(turn):
    x = draw_images(3)
    actual = _color.adjust_hue(x, torch.full((3,), turn, dtype=torch.float64))
    for image, new in zip(x, actual, strict=True):
        for colour, result in zip(image.flatten(1).T.tolist(), new.flatten(1).T.tolist(), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*colour)
            assert result == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v), abs=1e-12)


def test_color_jitter_applies_the_parts_in_order():
    x = draw_images(50)
    option = ColorJitter(0.4, 0.3, 0.6, 0.2)

    def draw(name, low, high):
        return low + (high - low) * prng.uniform(prng.fold_in(KEY, name), (50,)).double()

    expected = _color.adjust_brightness(x, draw("brightness", 0.6, 1.4))
    expected = _color.adjust_contrast(expected, draw("contrast", 0.7, 1.3))
    expected = _color.adjust_saturation(expected, draw("saturation", 0.4, 1.6))
    expected = _color.adjust_hue(expected, draw("hue", -0.2, 0.2))
    torch.testing.assert_close(option(x, torch.zeros(50), KEY)[0], expected, rtol=1e-12, atol=1e-12)


def test_the_factor_is_uniform_and_not_negative():
    x = torch.full((20_000, 1, 1, 2), 0.25, dtype=torch.float64)
    for most, low in ((0.5, 0.5), (2.0, 0.0)):
        factor = Brightness(most)(x, torch.zeros(20_000), KEY)[0][:, 0, 0, 0] / 0.25
        assert stats.kstest(factor.numpy(), stats.uniform(low, 1 + most - low).cdf).pvalue > 1e-3
    x[..., 0], x[..., 1] = 0.45, 0.55
    factor = Contrast(0.5)(x, torch.zeros(20_000), KEY)[0].diff(dim=-1).flatten() / 0.1
    assert stats.kstest(factor.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 1e-3


@channels
@pytest.mark.parametrize("option", [Brightness(0.0), Contrast(0.0), ColorJitter(0.0, 0.0, 0.0, 0.0)])
def test_nothing_changes_without_strength(option, channels):
    x = draw_images(channels=channels)
    torch.testing.assert_close(option(x, torch.zeros(len(x)), KEY)[0], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "count", "key"),
    [
        (ColorJitter(0.1, 0.0, 0.1, 0.0), 1, "saturation"),
        (ColorJitter(0.1, 0.1, 0.0, 0.1), 1, "hue"),
        (ColorJitter(0.1, 0.1, 0.0, 0.0), 2, "contrast"),
        (Contrast(0.1), 2, ""),
        (TrivialAugment(31), 4, ""),
    ],
)
def test_images_without_these_colours_are_refused(option, count, key):
    with pytest.raises(OptionError, match="channels") as error:
        option(torch.rand(2, count, 6, 6), torch.zeros(2), KEY)
    assert error.value.key == key


# ------------------------------------------------------------------------------------------- tones


@channels
@pytest.mark.parametrize("bits", [8, 5, 2])
def test_posterize_is_pillows(channels, bits):
    x = draw_images(channels=channels)
    actual = _tones.posterize(x, torch.full((len(x),), bits))
    torch.testing.assert_close(actual, by_pillow(x, lambda p: ImageOps.posterize(p, bits)), rtol=0, atol=1e-12)


@channels
@pytest.mark.parametrize("threshold", [0, 100, 255])
def test_solarize_is_pillows(channels, threshold):
    x = draw_images(channels=channels)
    actual = _tones.solarize(x, torch.full((len(x),), threshold / 255, dtype=torch.float64))
    torch.testing.assert_close(actual, by_pillow(x, lambda p: ImageOps.solarize(p, threshold)), rtol=0, atol=1e-12)


@channels
@pytest.mark.parametrize("low", [0, 90])
def test_autocontrast_and_equalize_are_pillows(channels, low):
    """Of full and narrow ranges; equalize of images that are large enough to change, and of a single value."""
    x = (draw_images(4, channels, (40, 40)) * 255 / (1 + low)).round() / 255 + low / 255
    x[-1] = 0.4
    actual = _tones.stretch_contrast(x)
    torch.testing.assert_close(actual, by_pillow(x, ImageOps.autocontrast), rtol=0, atol=1.01 / 255)
    torch.testing.assert_close(_tones.equalize(x), by_pillow(x, ImageOps.equalize), rtol=0, atol=1e-12)


@channels
def test_smoothing_is_pillows(channels):
    x = draw_images(channels=channels)
    smooth = by_pillow(x, lambda p: ImageEnhance.Sharpness(p).enhance(0.0))
    torch.testing.assert_close(_tones.smooth(x), smooth, rtol=0, atol=0.51 / 255)
    assert torch.equal(_tones.smooth(x)[..., 0], x[..., 0])
    for shape in ((2, 9), (1, 1)):
        assert torch.equal(_tones.smooth(x[..., : shape[0], : shape[1]]), x[..., : shape[0], : shape[1]])


# ------------------------------------------------------------------------------------------- TrivialAugment


def find_source(name, m, x, y, width, height):
    """Return the pixel that torchvision's operation reads, column and row; m is the signed magnitude."""
    if name == "shear_x":  # as the matrix of an image's transform, which counts from the corner of the first pixel
        return x + m * (y + 0.5), y
    if name == "shear_y":
        return x, y + m * (x + 0.5)
    if name == "translate_x":
        return x + int(m), y
    if name == "translate_y":
        return x, y + int(m)
    center, angle = ((width - 1) / 2, (height - 1) / 2), math.radians(m)
    across, down = x - center[0], y - center[1]
    return (
        center[0] + math.cos(angle) * across - math.sin(angle) * down,
        center[1] + math.sin(angle) * across + math.cos(angle) * down,
    )


@pytest.mark.parametrize(
    ("name", "most"), [("shear_x", 0.99), ("shear_y", 0.99), ("translate_x", 9), ("translate_y", 7), ("rotate", 135)]
)
def test_the_geometry_is_torchvisions(name, most):
    x = draw_images(6)
    strength, sign = torch.tensor([0.0, 0.2, 0.5, 0.5, 0.9, 1.0]).double(), torch.tensor([1, -1, 1, -1, 1, -1]).double()
    actual = apply_operations(x, torch.full((6,), OPERATIONS.index(name)), strength, sign)
    rows, columns = np.indices((7, 9))
    for image, new, m in zip(x.numpy(), actual.numpy(), (most * strength * sign).tolist(), strict=True):
        column, row = find_source(name, m, columns, rows, 9, 7)
        expected = [map_coordinates(channel, [row, column], order=1, mode="grid-constant") for channel in image]
        np.testing.assert_allclose(new, expected, rtol=1e-10, atol=1e-10)


@channels
def test_the_tones_are_torchvisions(channels):
    x = draw_images(4, channels)
    strength, sign = torch.tensor([0.0, 0.3, 0.6, 1.0]).double(), torch.tensor([1, -1, 1, -1]).double()
    f = 1 + 0.99 * strength * sign
    twins = {
        "identity": x,
        "brightness": _color.adjust_brightness(x, f),
        "color": _color.adjust_saturation(x, f),
        "contrast": _color.adjust_contrast(x, f),
        "sharpness": _color.blend(x, _tones.smooth(x), f),
        "posterize": _tones.posterize(x, torch.tensor([8, 6, 4, 2])),
        "solarize": _tones.solarize(x, 1 - strength),
        "autocontrast": _tones.stretch_contrast(x),
        "equalize": _tones.equalize(x),
    }
    for name, expected in twins.items():
        actual = apply_operations(x, torch.full((4,), OPERATIONS.index(name)), strength, sign)
        assert torch.equal(actual, expected), name
    mixed = torch.tensor([OPERATIONS.index(name) for name in ("color", "identity", "posterize", "rotate")])
    actual = apply_operations(x, mixed, strength, sign)
    assert torch.equal(actual[1], x[1]), "the others do not touch it"
    assert torch.equal(actual[2], twins["posterize"][2])


def test_operation_strength_and_sign_are_uniform(monkeypatch):
    draws = []
    monkeypatch.setattr(trivial_augment, "apply_operations", lambda x, *d: draws.append(d) or x)
    TrivialAugment(5)(torch.zeros(14_000, 1, 1, 1, dtype=torch.float64), torch.zeros(14_000), KEY)
    ((operation, strength, sign),) = draws
    for values, expected in (
        (operation, range(14)),
        (strength, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (sign, (-1.0, 1.0)),
    ):
        assert values.unique().tolist() == list(expected)
        assert stats.chisquare(values.unique(return_counts=True)[1].numpy()).pvalue > 1e-3
    draws = [operation.numpy(), (strength * 4).long().numpy(), (sign > 0).long().numpy()]
    for one, other in itertools.combinations(draws, 2):
        table = np.zeros((one.max() + 1, other.max() + 1))
        np.add.at(table, (one, other), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3, "they are independent"

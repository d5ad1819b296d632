"""Crops, erased and exchanged rectangles: which pixels, of which sizes and places, and with which targets."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from dlopt import prng
from dlopt.augmentation import cutmix, mixup
from dlopt.augmentation._boxes import draw_boxes, place_centers
from dlopt.augmentation._mixing import sample_share
from dlopt.augmentation._sampling import resize_windows
from dlopt.augmentation.cutmix import CutMix
from dlopt.augmentation.cutout import Cutout
from dlopt.augmentation.mixup import Mixup
from dlopt.augmentation.random_erasing import RandomErasing
from dlopt.augmentation.random_resized_crop import RandomResizedCrop, find_central_box
from dlopt.errors import OptionError

KEY = prng.key(0, "augmentation")
SQUARE = (1.0, 1.0)


def read_box(mask):
    """Return top, left, height and width of a rectangle of True in (height, width), and check that it is one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    top, left, height, width = rows[0], columns[0], len(rows), len(columns)
    assert mask[top : top + height, left : left + width].all()
    assert mask.sum() == height * width
    return top, left, height, width


def draw(count, shape, area, ratio, largest=None):
    return draw_boxes(KEY, torch.empty(1).expand(count, 1, *shape), area, ratio, largest or shape)


# ------------------------------------------------------------------------------------------- sizes and places


def test_area_and_ratio_have_torchvisions_distributions():
    """On an image so large that rounding does not matter; nothing is refused, so the first draw counts."""
    boxes, fits = draw(20_000, (4000, 4000), (0.1, 0.4), (0.5, 2.0))
    assert fits.all()
    area = (boxes.height * boxes.width).double() / 4000**2
    assert stats.kstest(area.numpy(), stats.uniform(0.1, 0.3).cdf).pvalue > 1e-3
    ratio = (boxes.width / boxes.height).double().log2()
    assert stats.kstest(ratio.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for start, size in ((boxes.top, boxes.height), (boxes.left, boxes.width)):
        place = start.double() / (4000 - size)
        assert stats.kstest(place.numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_the_first_draw_that_fits_counts():
    """A slow twin: torchvision's loop over the same numbers."""
    shape, area, ratio = (9, 5), (0.2, 1.0), (0.5, 3.0)
    boxes, fits = draw(500, shape, area, ratio)
    u = prng.uniform(prng.fold_in(KEY, "size"), (2, 500, 10)).double()
    n_refused = 0
    for i in range(500):
        for j in range(10):
            target = math.prod(shape) * (area[0] + (area[1] - area[0]) * u[0, i, j])
            aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[1, i, j])
            width, height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < width <= shape[1] and 0 < height <= shape[0]:
                assert fits[i]
                assert (height, width) == (boxes.height[i], boxes.width[i])
                break
        else:
            assert not fits[i]
        n_refused += j > 0
    assert n_refused > 50
    fitting = [x[fits] for x in boxes]
    assert (torch.stack(fitting[:2]) >= 0).all()
    assert (fitting[0] + fitting[2] <= shape[0]).all()
    assert (fitting[1] + fitting[3] <= shape[1]).all()


def test_a_box_around_a_centre_is_cut_off_at_the_edges():
    count, shape = 6000, (7, 9)
    size = torch.full((count,), 4)
    boxes = place_centers(KEY, torch.empty(count, 1, *shape), size, size)
    masks = boxes.mask(shape)[:, 0].numpy()
    expected = set()
    for row in range(shape[0]):
        for column in range(shape[1]):
            top, left = max(row - 2, 0), max(column - 2, 0)
            expected.add((top, left, min(row + 2, shape[0]) - top, min(column + 2, shape[1]) - left))
    counts = {}
    for mask in masks:
        counts[read_box(mask)] = counts.get(read_box(mask), 0) + 1
    assert counts.keys() == expected
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


# ------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("shape", [(8, 8), (7, 12), (12, 5)])
def test_a_window_is_resized_as_by_interpolate(shape):
    x = torch.randn(40, 2, *shape, dtype=torch.float64)
    boxes, fits = draw(40, shape, (0.05, 1.0), (0.3, 3.0))
    resized = resize_windows(x, *boxes)
    for i in fits.nonzero().flatten():
        top, left, height, width = (int(b[i]) for b in boxes)
        window = x[i : i + 1, :, top : top + height, left : left + width]
        expected = F.interpolate(window, shape, mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized[i : i + 1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "ratio", "box"),
    [((4, 12), (0.5, 1.5), (0, 3, 4, 6)), ((12, 4), (0.8, 2.0), (3, 0, 5, 4)), ((6, 5), (0.5, 2.0), (0, 0, 6, 5))],
)
def test_a_window_that_never_fits_is_central(shape, ratio, box):
    assert find_central_box(*shape, ratio) == box
    x = torch.randn(3, 1, *shape, dtype=torch.float64)
    if shape != (6, 5):
        option = RandomResizedCrop(1.0, 1.0, *ratio)
        expected = resize_windows(x, *(torch.full((3,), side) for side in box))
        torch.testing.assert_close(option(x, torch.zeros(3), KEY)[0], expected)


def test_the_whole_image_stays():
    x = torch.randn(10, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(RandomResizedCrop(1.0, 1.0, *SQUARE)(x, torch.zeros(10), KEY)[0], x)


# ------------------------------------------------------------------------------------------- erasing


def erase(fill, p=1.0, count=400, shape=(2, 12, 9)):
    x = torch.randn(count, *shape, dtype=torch.float64)
    erased, _ = RandomErasing(p, 0.1, 0.3, 0.4, 2.5, fill)(x, torch.zeros(count), KEY)
    return x, erased


def test_a_rectangle_of_all_channels_is_erased():
    x, erased = erase("zero")
    areas = []
    for image, original in zip(erased.numpy(), x.numpy(), strict=True):
        changed = image != original
        assert (changed[0] == changed[1]).all()
        assert not image[changed].any()
        _, _, height, width = read_box(changed[0])
        assert height < 12
        assert width < 9
        areas.append(height * width / 108)
    assert 0.08 < min(areas) < 0.13
    assert 0.27 < max(areas) < 0.36


def test_tall_rectangles_have_a_ratio_above_one():
    x = torch.ones(200, 1, 40, 40)
    erased, _ = RandomErasing(1.0, 0.1, 0.1, 3.0, 3.0, "zero")(x, torch.zeros(200), KEY)
    boxes = {read_box(image)[2:] for image in (erased[:, 0] == 0).numpy()}
    assert boxes == {(round(math.sqrt(160 * 3)), round(math.sqrt(160 / 3)))}


def test_images_are_erased_with_probability_p():
    for p in (0.0, 0.3, 1.0):
        x, erased = erase("zero", p, count=4000, shape=(1, 8, 8))
        share = (x != erased).flatten(1).any(1).double().mean().item()
        assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / 4000)


def test_the_content_is_the_mean_or_standard_normal_noise():
    x, erased = erase("mean")
    means = x.mean((-2, -1), keepdim=True).expand_as(x)
    changed = erased != x
    torch.testing.assert_close(erased[changed], means[changed])
    x, erased = erase("noise")
    assert stats.kstest(erased[erased != x].numpy(), stats.norm.cdf).pvalue > 1e-3


def test_cutout_erases_a_square():
    x = torch.randn(300, 2, 12, 9, dtype=torch.float64)
    erased, _ = Cutout(4)(x, torch.zeros(300), KEY)
    sizes = {read_box(mask)[2:] for mask in ((erased == 0) & (x != 0)).all(1).numpy()}
    assert (4, 4) in sizes
    assert torch.equal(erased[erased != 0], x[erased != 0])
    with pytest.raises(OptionError, match="at most 18"):
        Cutout(19)(x, torch.zeros(300), KEY)


# ------------------------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_share_has_a_beta_distribution(alpha):
    share = sample_share(KEY, alpha, 1.0, 20_000, torch.device("cpu")).numpy()
    distribution = stats.beta(alpha, alpha)
    lower, upper = share[share < 0.5], share[share >= 0.5]
    assert abs(len(lower) - len(upper)) < 5 * math.sqrt(20_000)
    assert stats.kstest(lower, lambda x: 2 * distribution.cdf(x)).pvalue > 1e-3
    away = upper[upper < 0.999]  # float32 rounds values close to 1
    end = distribution.cdf(0.999)
    assert stats.kstest(away, lambda x: (distribution.cdf(x) - 0.5) / (end - 0.5)).pvalue > 1e-3
    some = sample_share(KEY, alpha, 0.25, 20_000, torch.device("cpu"))
    assert abs((some != 1).double().mean().item() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)


def draw_batch(count=60, shape=(2, 12, 9)):
    x = torch.randn(count, *shape, dtype=torch.float64)
    return x, torch.rand(count, 4, dtype=torch.float64).softmax(-1)


def fix_draws(monkeypatch, module, count):
    """Let the option use known shares and partners, and return both."""
    share = torch.linspace(0, 1, count)
    order = torch.arange(count).roll(7)
    monkeypatch.setattr(module, "sample_share", lambda *_: share)
    monkeypatch.setattr(module, "choose_partners", lambda _: order)
    return share.double(), order


@pytest.mark.parametrize("shape", [(5,), (2, 8), (2, 6, 5)])
def test_mixup_takes_the_same_share_of_inputs_and_targets(monkeypatch, shape):
    x, y = draw_batch(shape=shape)
    share, order = fix_draws(monkeypatch, mixup, len(x))
    new_x, new_y = Mixup(0.2, 1.0)(x, y, KEY)
    for i in range(len(x)):
        torch.testing.assert_close(new_x[i], share[i] * x[i] + (1 - share[i]) * x[order[i]])
        torch.testing.assert_close(new_y[i], share[i] * y[i] + (1 - share[i]) * y[order[i]])


def test_cutmix_exchanges_a_rectangle_and_mixes_targets_by_its_area(monkeypatch):
    x, y = draw_batch()
    share, order = fix_draws(monkeypatch, cutmix, len(x))
    new_x, new_y = CutMix(1.0, 1.0)(x, y, KEY)
    for i in range(len(x)):
        other = (new_x[i] == x[order[i]]).all(0)
        assert torch.equal(new_x[i], torch.where(other, x[order[i]], x[i]))
        kept = 1 - other.double().mean()
        torch.testing.assert_close(new_y[i], kept * y[i] + (1 - kept) * y[order[i]])
        if other.any():
            _, _, height, width = read_box(other.numpy())
            side = math.sqrt(1 - share[i])
            assert height <= 2 * int(side * 12 / 2)
            assert width <= 2 * int(side * 9 / 2)


def test_a_rectangle_in_the_middle_has_the_area_of_its_share(monkeypatch):
    """Not cut off: large images and small rectangles."""
    count = 50
    x, y = torch.stack([torch.zeros(count), torch.ones(count)]).flatten(), torch.eye(2).repeat_interleave(count, 0)
    x = x.view(-1, 1, 1, 1).expand(-1, 1, 200, 200)
    share = torch.full((2 * count,), 0.9895)  # sides of 10.2% are 20.5 pixels, rounded down to 20
    monkeypatch.setattr(cutmix, "sample_share", lambda *_: share)
    monkeypatch.setattr(cutmix, "choose_partners", lambda _: torch.arange(2 * count).roll(count))
    _, new_y = CutMix(1.0, 1.0)(x, y, KEY)
    kept = new_y.amax(1)
    assert kept.min().item() == pytest.approx(0.99, abs=1e-6)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_nothing_is_mixed_without_probability(kind):
    x, y = draw_batch()
    new_x, new_y = kind(1.0, 0.0)(x, y, KEY)
    torch.testing.assert_close(new_x, x, rtol=0, atol=0)
    torch.testing.assert_close(new_y, y, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: RandomResizedCrop(0.9, 0.5, 0.75, 1.5), "area_low"),
        (lambda: RandomResizedCrop(0.1, 0.5, 1.75, 1.5), "ratio_low"),
        (lambda: RandomErasing(0.5, 0.5, 0.1, 0.3, 3.0, "zero"), "area_low"),
    ],
)
def test_a_reversed_interval_is_refused(make, key):
    with pytest.raises(OptionError, match=f"{key} must be at most") as error:
        make()
    assert error.value.key == key

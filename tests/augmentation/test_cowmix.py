"""CowMix against scipy's smoothing and quantiles image by image, its distributions, and what it does to a batch."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from dlopt import prng
from dlopt.augmentation import cowmix
from dlopt.augmentation.cowmix import CowMix, make_mask, sample_noise

KEY = prng.key(0, "augmentation")
BATCH, CLASSES = 30, 4


def draw_batch(shape=(2, 12, 9)):
    x = torch.randn(BATCH, *shape, dtype=torch.float64)
    return x, torch.rand(BATCH, CLASSES, dtype=torch.float64).softmax(-1)


def draw_masks(sigma, p, count=2000, size=16):
    n = sample_noise(KEY, (count, size, size), torch.empty(0, dtype=torch.float64))
    ones = torch.ones(count, dtype=torch.float64)
    return make_mask(n, sigma * ones, p * ones)


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])
def test_a_mask_is_smoothed_noise_below_its_quantile(shape):
    """French et al. 2020, algorithm 1, one image at a time."""
    n = torch.randn(6, *shape, dtype=torch.float64)
    sigma = torch.tensor([0.3, 1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    p = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7, 0.5], dtype=torch.float64)
    masks = make_mask(n, sigma, p)
    for image, s, share, mask in zip(n.numpy(), sigma.tolist(), p.tolist(), masks.numpy(), strict=True):
        smooth = gaussian_filter(image, s, mode="constant", truncate=20 / s)
        threshold = smooth.mean() + smooth.std() * stats.norm.ppf(share)
        np.testing.assert_array_equal(mask, smooth <= threshold)


@pytest.mark.parametrize("sigma", [1.0, 16.0])
def test_the_kept_fraction_is_p_on_average(sigma):
    """Exactly for p = 0, 1/2, 1 (by symmetry); else nearly, since smooth noise is not normal within an image."""
    for p in (0.0, 0.2, 0.5, 0.8, 1.0):
        fractions = draw_masks(sigma, p).mean((-2, -1))
        tolerance = 0.05 if p in (0.2, 0.8) else 1e-9
        assert abs(fractions.mean() - p) < 5 * fractions.std() / math.sqrt(len(fractions)) + tolerance


def test_patches_grow_with_sigma():
    """Fewer neighbouring pixels differ."""
    edges = [
        (draw_masks(s, 0.5, count=500, size=32).diff(dim=-1) != 0).double().mean().item()
        for s in (0.5, 1.0, 2.0, 4.0, 8.0)
    ]
    assert all(b < 0.8 * a for a, b in zip(edges, edges[1:], strict=False))


def test_the_noise_is_nearly_normal_and_white():
    n = sample_noise(KEY, (400, 30, 31), torch.empty(0, dtype=torch.float64))
    assert n.shape == (400, 30, 31)
    values, counts = n.unique(return_counts=True)
    middles = torch.tensor(stats.norm.ppf((np.arange(256) + 0.5) / 256))
    torch.testing.assert_close(values, middles / middles.square().mean().sqrt(), rtol=1e-9, atol=0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert abs(n.square().mean() - 1) < 0.01
    for dim in range(3):
        assert abs((n * n.roll(1, dim)).mean()) < 5 / math.sqrt(n.numel())


def test_sigma_is_uniform_in_its_logarithm_and_p_uniform(monkeypatch):
    calls = []
    monkeypatch.setattr(cowmix, "make_mask", lambda n, sigma, p: calls.append((sigma, p)) or torch.ones_like(n))
    count = 20_000
    CowMix(2.0, 32.0, 0.1, 0.7, "noise")(torch.zeros(count, 1, 1, 1), torch.zeros(count), KEY)
    ((sigma, p),) = calls
    assert stats.kstest(sigma.log2().numpy(), stats.uniform(1, 4).cdf).pvalue > 1e-3
    assert stats.kstest(p.numpy(), stats.uniform(0.1, 0.6).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(sigma.log(), p)[0, 1]) < 5 / math.sqrt(count)


def test_each_image_is_mixed_with_another_one_and_its_target_in_the_same_proportion():
    """Read from the pixels: each is the image's own or the partner's, in all channels; partners are a permutation."""
    x, y = draw_batch()
    new_x, new_y = CowMix(2.0, 4.0, 0.3, 0.7, "image")(x, y, KEY)
    partners = []
    for i in range(BATCH):
        own = (new_x[i] == x[i]).all(0)
        assert own.any()
        if own.all():  # the partner cannot be seen
            torch.testing.assert_close(new_y[i], y[i])
            continue
        (j,) = (j for j in range(BATCH) if torch.equal(torch.where(own, x[i], x[j]), new_x[i]))
        partners.append(j)
        share = own.double().mean()
        torch.testing.assert_close(new_y[i], share * y[i] + (1 - share) * y[j])
    assert len(set(partners)) == len(partners) > BATCH - 5


def test_with_nothing_kept_the_batch_is_permuted():
    x, y = draw_batch()
    new_x, new_y = CowMix(2.0, 4.0, 0.0, 0.0, "image")(x, y, KEY)
    order = [next(j for j in range(BATCH) if torch.equal(new_x[i], x[j])) for i in range(BATCH)]
    assert sorted(order) == list(range(BATCH)) != order
    assert torch.equal(new_y, y[order])


@pytest.mark.parametrize("blend", ["noise", "image"])
def test_with_everything_kept_nothing_changes(blend):
    x, y = draw_batch()
    new_x, new_y = CowMix(2.0, 4.0, 1.0, 1.0, blend)(x, y, KEY)
    assert torch.equal(new_x, x)
    torch.testing.assert_close(new_y, y, rtol=1e-15, atol=0)


def test_noise_has_the_mean_and_deviation_of_each_channel():
    scale, offset = torch.tensor([3.0, 0.1])[:, None, None], torch.tensor([5.0, -1.0])[:, None, None]
    x, y = torch.randn(400, 2, 12, 9, dtype=torch.float64) * scale + offset, torch.zeros(400)
    new_x, new_y = CowMix(2.0, 4.0, 0.4, 0.6, "noise")(x, y, KEY)
    assert new_y is y
    own = (new_x == x).all(1)
    assert 0.4 < own.double().mean() < 0.6
    assert torch.equal((new_x == x).any(1), own), "a pixel is kept in all channels, or in none"
    for channel in range(2):
        noise, data = new_x[:, channel][~own], x[:, channel]
        assert abs(noise.mean() - data.mean()) < 5 * data.std() / math.sqrt(len(noise))
        assert noise.std().item() == pytest.approx(data.std().item(), rel=0.03)


def test_augmenting_standardized_data_is_standardizing_augmented_data():
    x, y = draw_batch()
    option = CowMix(2.0, 4.0, 0.4, 0.6, "noise")
    torch.testing.assert_close(option(3 * x - 2, y, KEY)[0], 3 * option(x, y, KEY)[0] - 2)


@pytest.mark.parametrize(("values", "key"), [((5.0, 4.0, 0.2, 0.8), "sigma_low"), ((4.0, 4.0, 0.9, 0.8), "p_low")])
def test_a_reversed_range_is_refused(values, key):
    with pytest.raises(ValueError, match=f"{key} must be at most"):
        CowMix(*values, "noise")

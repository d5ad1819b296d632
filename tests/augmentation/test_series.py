"""Noise, amplitudes and masks of series against their distributions, and padding that stays padding."""

import math

import pytest
import torch
from scipy import stats

from dlopt import prng
from dlopt.augmentation.jitter import Jitter
from dlopt.augmentation.scaling import Scaling
from dlopt.augmentation.time_mask import TimeMask
from dlopt.errors import OptionError

KEY = prng.key(0, "augmentation")


def draw_series(count=400, channels=3, length=20):
    return torch.randn(count, channels, length, dtype=torch.float64)


def test_jitter_is_normal_for_each_value_or_channel():
    x = draw_series()
    noise = (Jitter(0.3, "value")(x, torch.zeros(400), KEY)[0] - x) / 0.3
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 5 / math.sqrt(noise.numel())
    shift = (Jitter(0.3, "channel")(x, torch.zeros(400), KEY)[0] - x) / 0.3
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift))
    assert stats.kstest(shift[..., 0].flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    assert abs((shift[:, 0] * shift[:, 1]).mean()) < 5 / math.sqrt(400)


def test_each_channel_has_its_own_normal_factor():
    x = draw_series()
    factor = Scaling(0.2)(x, torch.zeros(400), KEY)[0] / x
    torch.testing.assert_close(factor, factor[..., :1].expand_as(factor))
    assert stats.kstest(factor[..., 0].flatten().numpy(), stats.norm(1, 0.2).cdf).pvalue > 1e-3
    assert abs((factor[:, 0, 0] - 1) @ (factor[:, 1, 0] - 1)) < 5 * 0.2**2 * math.sqrt(400)


def read_interval(masked):
    """Return beginning and length of the True of a row, which must be contiguous."""
    places = masked.nonzero().flatten()
    assert len(places) == 0 or int(places[-1] - places[0]) == len(places) - 1
    return (int(places[0]), len(places)) if len(places) else (0, 0)


def test_an_interval_has_a_uniform_length_and_place():
    x = draw_series(6000, 2, 10)
    masked = (TimeMask(3, 1, "zero")(x, torch.zeros(6000), KEY)[0] == 0).numpy()
    assert (masked[:, 0] == masked[:, 1]).all()
    intervals = [read_interval(torch.tensor(row)) for row in masked[:, 0]]
    expected = {(0, 0): 6000 / 4} | {(at, n): 6000 / 4 / (11 - n) for n in (1, 2, 3) for at in range(11 - n)}
    counts = {interval: intervals.count(interval) for interval in expected}
    assert sum(counts.values()) == 6000
    assert stats.chisquare(list(counts.values()), list(expected.values())).pvalue > 1e-3


def test_the_mean_of_each_channel_fills_an_interval_and_several_are_drawn():
    x = draw_series()
    new, _ = TimeMask(4, 3, "mean")(x, torch.zeros(400), KEY)
    changed = new != x
    torch.testing.assert_close(new[changed], x.mean(-1, keepdim=True).expand_as(x)[changed])
    assert changed[:, 0].sum(-1).max() > 8


def test_padding_stays_padding_and_intervals_lie_before_it():
    """Series of lengths 1 to 8, padded with NaN to 12, with masks of up to 6 positions."""
    lengths = torch.arange(400) % 8 + 1
    padding = (torch.arange(12) >= lengths[:, None]).unsqueeze(1)
    x = draw_series(400, 2, 12).masked_fill(padding, math.nan)
    for option in (TimeMask(6, 1, "mean"), TimeMask(6, 2, "zero"), Jitter(0.1, "value"), Scaling(0.1)):
        assert option.keeps_steps
        new, _ = option(x, torch.zeros(400), KEY)
        assert torch.equal(new.isnan(), padding.expand_as(new))
    single = torch.randn(4000, 1, 12).masked_fill(torch.arange(12) >= 4, math.nan)
    masked = TimeMask(4, 1, "zero")(single, torch.zeros(4000), KEY)[0][:, 0, :4] == 0
    share = masked.double().mean().item()
    assert share == pytest.approx((0 + 1 + 2 + 3 + 4) / 5 / 4, abs=0.03), "as of series of length 4"


@pytest.mark.parametrize("option", [Jitter(0.0, "value"), Scaling(0.0), TimeMask(0, 2, "zero")])
def test_nothing_changes_without_strength(option):
    x = draw_series()
    assert torch.equal(option(x, torch.zeros(400), KEY)[0], x)


def test_a_mask_longer_than_the_series_is_refused():
    with pytest.raises(OptionError, match="at most 20, the length of a series, got 21"):
        TimeMask(21, 1, "zero")(draw_series(), torch.zeros(400), KEY)

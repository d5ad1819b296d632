"""Standardization of channels: one mean and deviation for all positions of a channel."""

import pytest
import torch

from dlopt.preprocess.per_channel import PerChannel
from dlopt.preprocess.standardize import Standardize


def scaled(x):
    return PerChannel().apply(x, PerChannel().fit(x))


@pytest.mark.parametrize("shape", [(2, 7), (3, 4, 5)])
def test_a_channel_is_standardized_by_the_mean_and_deviation_of_all_its_numbers(shape):
    x = torch.randn(50, *shape, dtype=torch.float64) * 3 + torch.arange(shape[-1])
    y = scaled(x)
    for c in range(shape[0]):
        numbers = x[:, c].flatten()
        mu = numbers.sum() / len(numbers)
        sigma = ((numbers - mu).square().sum() / len(numbers)).sqrt()
        torch.testing.assert_close(y[:, c], (x[:, c] - mu) / sigma)


def test_the_pattern_across_positions_is_kept():
    ramp = torch.arange(6.0, dtype=torch.float64).expand(40, 1, 6) + torch.randn(40, 1, 1, dtype=torch.float64)
    steps = scaled(ramp).diff(dim=-1)
    torch.testing.assert_close(steps, steps.mean().expand_as(steps))
    assert steps.mean() > 0.1


def test_each_feature_of_a_vector_is_a_channel():
    x = torch.randn(30, 4, dtype=torch.float64) * 2 + 1
    assert torch.equal(scaled(x), Standardize().apply(x, Standardize().fit(x)))


def test_one_statistic_serves_data_of_other_lengths():
    statistics = PerChannel().fit(torch.randn(30, 2, 7))
    assert {tuple(v.shape) for v in statistics.values()} == {(2, 1)}
    assert PerChannel().apply(torch.randn(3, 2, 9), statistics).shape == (3, 2, 9)

"""Histograms against numpy's."""

import math

import numpy as np
import pytest
import torch
from helpers import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlopt.base.diagnostic import Histogram


def on_host(histogram, *lane):
    """One histogram as it reaches the host."""
    return Histogram.unpack(histogram.pack()[lane].tolist())


@pytest.mark.parametrize("bins", [1, 2, 30, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_and_edges_are_numpys(bins, dtype):
    x = torch.randn(5000, dtype=dtype, device=DEVICE)
    found = on_host(Histogram.of(x, bins))
    counts, edges = np.histogram(x.double().cpu().numpy(), bins)
    assert [left for left, _, _ in found.buckets()] == pytest.approx(edges[:-1])
    assert [right for _, right, _ in found.buckets()] == pytest.approx(edges[1:])
    at_most = 0 if dtype == torch.float64 else 2  # of 5000 that lie within float32's rounding of an edge
    assert np.abs(np.array(found.counts) - counts).sum() <= at_most


@settings(deadline=None, max_examples=100)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6, allow_subnormal=False)), st.integers(1, 12))
def test_every_value_lies_in_its_bucket(values, bins):
    """To within rounding: each of the counts of what is below an edge is numpy's for that edge, moved by a hair."""
    found = on_host(Histogram.of(torch.tensor(values), bins))
    assert (found.low, found.high) == (values.min(), values.max())
    assert sum(found.counts) == len(values)
    if values.min() == values.max():
        assert found.counts[-1] == len(values)
        return
    hair = 1e-12 * (abs(values).max() + values.max() - values.min())
    below = np.cumsum(found.counts)
    for (_, right, _), count in zip(found.buckets()[:-1], below[:-1], strict=True):
        assert (values < right - hair).sum() <= count <= (values < right + hair).sum()


def test_each_of_the_leading_dimensions_has_its_own():
    x = torch.randn(2, 3, 100, dtype=torch.float64) * torch.arange(1.0, 4.0)[:, None]
    together = Histogram.of(x, 7)
    assert together.counts.shape == (2, 3, 7)
    assert together.low.shape == together.high.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert on_host(together, i, j) == on_host(Histogram.of(x[i, j], 7))


def test_what_is_not_finite_is_left_out():
    x = torch.tensor([math.nan, 1.0, math.inf, 2.0, -math.inf, 4.0, 2.5])
    found = on_host(Histogram.of(x, 3))
    assert found == ([1.0, 2.0, 1.0], 1.0, 4.0)
    beside = Histogram.of(torch.stack([x, torch.full_like(x, math.nan), torch.arange(7.0)]), 3)
    assert on_host(beside, 0) == found
    assert on_host(beside, 1) == ([0.0, 0.0, 0.0], 0.0, 0.0)
    assert on_host(beside, 2) == ([2.0, 2.0, 3.0], 0.0, 6.0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_equal_values_lie_in_the_last_bucket_as_in_tensorboards_own(value):
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.util.tensor_util import make_ndarray

    found = on_host(Histogram.of(torch.full((5,), value, dtype=torch.float64), 4))
    theirs = make_ndarray(histogram_pb("x", [value] * 5, 4).value[0].tensor)
    np.testing.assert_array_equal(found.buckets(), theirs)


def test_the_widest_range_of_a_type_is_counted_too():
    most = torch.finfo(torch.float32).max
    found = on_host(Histogram.of(torch.tensor([-most, 0.0, most]), 3))
    assert sum(found.counts) == 3
    assert all(math.isfinite(edge) for left, right, _ in found.buckets() for edge in (left, right))

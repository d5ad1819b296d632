"""Histograms against those of numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dlopt.base.diagnostic import Histogram


def to_host(histogram, *lane):
    """Return the histogram of a lane on the host."""
    return Histogram.unpack(histogram.pack()[lane].tolist())


@pytest.mark.parametrize("bins", [1, 2, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_and_edges_equal_those_of_numpy(bins, dtype):
    x = torch.randn(5000, dtype=dtype, device=DEVICE)
    result = to_host(Histogram.of(x, bins))
    counts, edges = np.histogram(x.double().cpu().numpy(), bins)
    assert [left for left, _, _ in result.buckets()] == pytest.approx(edges[:-1])
    assert [right for _, right, _ in result.buckets()] == pytest.approx(edges[1:])
    at_most = 0 if dtype == torch.float64 else 2  # float32 rounds values near an edge
    assert np.abs(np.array(result.counts) - counts).sum() <= at_most


@settings(max_examples=60)
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6, allow_subnormal=False)), st.integers(1, 12))
def test_every_value_lies_in_its_bucket(values, bins):
    """The count below each edge is exact for the edge moved by a rounding error."""
    result = to_host(Histogram.of(torch.tensor(values), bins))
    assert (result.low, result.high) == (values.min(), values.max())
    assert sum(result.counts) == len(values)
    if values.min() == values.max():
        assert result.counts[-1] == len(values)
        return
    eps = 1e-12 * (abs(values).max() + values.max() - values.min())
    below = np.cumsum(result.counts)
    for (_, right, _), count in zip(result.buckets()[:-1], below[:-1], strict=True):
        assert (values < right - eps).sum() <= count <= (values < right + eps).sum()


def test_leading_dimensions_have_their_own_histograms():
    x = torch.randn(2, 3, 100, dtype=torch.float64) * torch.arange(1.0, 4.0)[:, None]
    together = Histogram.of(x, 7)
    assert together.counts.shape == (2, 3, 7)
    assert together.low.shape == together.high.shape == (2, 3)
    for lane in itertools.product(range(2), range(3)):
        assert to_host(together, *lane) == to_host(Histogram.of(x[lane], 7))


def test_values_that_are_not_finite_are_left_out():
    x = torch.tensor([math.nan, 1.0, math.inf, 2.0, -math.inf, 4.0, 2.5])
    result = to_host(Histogram.of(x, 3))
    assert result == ([1.0, 2.0, 1.0], 1.0, 4.0)
    together = Histogram.of(torch.stack([x, torch.full_like(x, math.nan), torch.arange(7.0)]), 3)
    assert to_host(together, 0) == result
    assert to_host(together, 1) == ([0.0, 0.0, 0.0], 0.0, 0.0)
    assert to_host(together, 2) == ([2.0, 2.0, 3.0], 0.0, 6.0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_equal_values_lie_in_the_last_bucket_as_in_tensorboard(value):
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb
    from tensorboard.util.tensor_util import make_ndarray

    result = to_host(Histogram.of(torch.full((5,), value, dtype=torch.float64), 4))
    theirs = make_ndarray(histogram_pb("x", [value] * 5, 4).value[0].tensor)
    np.testing.assert_array_equal(result.buckets(), theirs)


def test_the_widest_range_of_a_type_is_counted():
    most = torch.finfo(torch.float32).max
    result = to_host(Histogram.of(torch.tensor([-most, 0.0, most]), 3))
    assert sum(result.counts) == 3
    assert all(math.isfinite(edge) for left, right, _ in result.buckets() for edge in (left, right))

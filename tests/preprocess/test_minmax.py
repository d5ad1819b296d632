"""Scaling to 0..1 by the training split's least and largest value."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt.preprocess.minmax import MinMax

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure


def scaled(x):
    return MinMax().apply(x, MinMax().fit(x))


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_inputs_fill_zero_to_one_exactly(shape, dtype):
    y = scaled((torch.randn(200, *shape) * 3 + torch.randn(shape)).to(dtype))
    assert torch.equal(y.amin(0), torch.zeros(shape, dtype=dtype))
    assert torch.equal(y.amax(0), torch.ones(shape, dtype=dtype))


@relaxed
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_order_is_kept_inside_zero_and_one_whatever_the_numbers(values):
    x = torch.tensor(values).unsqueeze(1)
    y = scaled(x)
    assert ((y >= 0) & (y <= 1)).all()
    order = x.flatten().argsort()
    assert (y.flatten()[order].diff() >= 0).all()
    assert y.amax() == (1.0 if len(set(values)) > 1 else 0.0)


def test_examples_of_other_splits_may_lie_outside():
    statistics = MinMax().fit(torch.tensor([[2.0], [4.0]]))
    test = torch.tensor([[0.0], [3.0], [8.0]])
    assert MinMax().apply(test, statistics).flatten().tolist() == [-1.0, 0.5, 3.0]


def test_a_constant_feature_becomes_zero_and_counts_in_its_own_units_elsewhere():
    statistics = MinMax().fit(torch.full((5, 1), 7.0))
    assert MinMax().apply(torch.tensor([[7.0], [9.0]]), statistics).flatten().tolist() == [0.0, 2.0]

"""Scaling to 0..1 by the minimum and maximum of the training split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlopt.preprocess.minmax import MinMax


def scale(x):
    return MinMax().apply(x, MinMax().fit(x))


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_inputs_fill_zero_to_one_exactly(shape, dtype):
    y = scale((torch.randn(200, *shape) * 3 + torch.randn(shape)).to(dtype))
    assert torch.equal(y.amin(0), torch.zeros(shape, dtype=dtype))
    assert torch.equal(y.amax(0), torch.ones(shape, dtype=dtype))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_any_numbers_keep_their_order_between_zero_and_one(values):
    x = torch.tensor(values).unsqueeze(1)
    y = scale(x)
    assert ((y >= 0) & (y <= 1)).all()
    assert (y.flatten()[x.flatten().argsort()].diff() >= 0).all()
    assert y.amax() == (1.0 if len(set(values)) > 1 else 0.0)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([2.0, 4.0], [0.0, 3.0, 8.0], [-1.0, 0.5, 3.0]),
        ([7.0, 7.0], [7.0, 9.0], [0.0, 2.0]),  # a constant keeps its unit
    ],
)
def test_other_splits_may_lie_outside(train, test, expected):
    statistics = MinMax().fit(torch.tensor(train).unsqueeze(1))
    assert MinMax().apply(torch.tensor(test).unsqueeze(1), statistics).flatten().tolist() == expected

"""Ranges: membership and text."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlopt.ranges import Count, Fraction, NonNegative, Positive, Range

bounds = st.none() | st.floats(-10, 10)
numbers = st.floats(-20, 20) | st.integers(-20, 20)


@given(gt=bounds, ge=bounds, lt=bounds, le=bounds, x=numbers)
def test_a_number_is_inside_if_no_bound_excludes_it(gt, ge, lt, le, x):
    excluded = (
        (gt is not None and x <= gt)
        or (ge is not None and x < ge)
        or (lt is not None and x >= lt)
        or (le is not None and x > le)
    )
    assert (x in Range(gt, ge, lt, le)) is not excluded


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
@given(gt=bounds, le=bounds)
def test_nan_and_infinite_values_lie_in_no_range(x, gt, le):
    assert x not in Range(gt=gt, le=le)
    assert x not in Range()


@pytest.mark.parametrize(
    ("alias", "inside", "outside"),
    [
        (Positive, [1e-300, 1, 1e300], [0, -1]),
        (NonNegative, [0, 1], [-1e-300]),
        (Fraction, [0, 0.5, math.nextafter(1, 0)], [1, -0.1]),
        (Count, [1, 10**9], [0, -1]),
    ],
)
def test_named_ranges(alias, inside, outside):
    (interval,) = (a for a in get_args(alias) if isinstance(a, Range))
    assert all(x in interval for x in inside)
    assert not any(x in interval for x in outside)


@given(gt=bounds, ge=bounds, lt=bounds, le=bounds)
def test_the_text_of_a_range_states_its_bounds(gt, ge, lt, le):
    assert str(Range()) == "any finite number"
    text = str(Range(gt, ge, lt, le))
    stated = [(">", gt), (">=", ge), ("<", lt), ("<=", le)]
    for sign, bound in stated:
        assert bound is None or f"{sign} {bound:.10g}" in text
    assert len(text.split(" and ")) == max(1, sum(bound is not None for _, bound in stated))

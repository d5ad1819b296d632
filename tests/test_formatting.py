"""Numbers as they are shown to a person."""

import pytest

from dlopt.formatting import format_rate


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0"), (0.0123, "0.012"), (0.316, "0.32"), (4.04, "4"), (9.949, "9.9"), (9.96, "10"), (1234.5, "1,234")],
)
def test_a_small_rate_is_not_rounded_to_zero(rate, text):
    assert format_rate(rate) == text

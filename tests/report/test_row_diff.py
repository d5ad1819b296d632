"""Rows of two runs, number by number, against a slow reference."""

import math
import struct

from hypothesis import example, given
from hypothesis import strategies as st

from dlopt.report.row_diff import compare, is_identical

VALUES = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, 1e308, -1e308, 5e-324]), st.floats())
NAMES = ("train/loss", "val/loss", "epoch", "seconds", "time/steps_per_second")
ROWS = st.dictionaries(st.integers(0, 12), st.dictionaries(st.sampled_from(NAMES), VALUES), max_size=8).map(
    lambda rows: [{"step": step, **rows[step]} for step in sorted(rows)]
)


def bits(value):
    """Return the bits of a value; all NaN are equal."""
    return None if value is None else b"nan" if math.isnan(value) else struct.pack("<d", value)


def at(rows, step):
    return next((row for row in rows if row["step"] == step), None)


@given(ROWS, ROWS)
def test_it_agrees_with_a_slow_reference(then, now):
    result = compare(then, now)
    steps = [step for step in range(13) if at(then, step) is not None and at(now, step) is not None]
    assert result.rows == len(steps)
    pairs = {}
    for name in ("step", "train/loss", "val/loss", "epoch"):
        for step in steps:
            a, b = at(then, step).get(name), at(now, step).get(name)
            if bits(a) != bits(b):
                pairs.setdefault(name, []).append((step, a, b))
    assert {d.metric for d in result.differences} == set(pairs)
    assert [d.first for d in result.differences] == sorted(rows[0][0] for rows in pairs.values())
    for d in result.differences:
        rows = pairs[d.metric]
        assert (d.first, d.count) == (rows[0][0], len(rows))
        finite = [(s, a, b) for s, a, b in rows if None not in (a, b) and math.isfinite(a) and math.isfinite(b)]
        if not finite:
            assert (d.absolute, d.at_absolute, d.relative, d.at_relative) == (None,) * 4
            continue
        sizes = {s: abs(b - a) for s, a, b in finite}
        assert d.absolute == max(sizes.values())
        assert d.at_absolute == min(s for s in sizes if sizes[s] == d.absolute)
        assert 0 <= d.relative <= 2
        shares = {
            s: 0.0 if a == b == 0 else abs(b / max(abs(a), abs(b)) - a / max(abs(a), abs(b))) for s, a, b in finite
        }
        assert d.relative == max(shares.values())
        assert d.at_relative == min(s for s in shares if shares[s] == d.relative)
    covered = []
    if then and now:
        covered = range(max(then[0]["step"], now[0]["step"]), min(then[-1]["step"], now[-1]["step"]) + 1)
    assert result.only_then == tuple(s for s in covered if at(then, s) is not None and at(now, s) is None)
    assert result.only_now == tuple(s for s in covered if at(now, s) is not None and at(then, s) is None)
    assert result.is_equal == bool(steps and not pairs and not result.only_then and not result.only_now)
    assert result.first == ((result.differences[0].first, result.differences[0].metric) if pairs else None)


@given(ROWS, ROWS)
def test_exchanging_the_runs_exchanges_the_result(then, now):
    one, other = compare(then, now), compare(now, then)
    assert (one.rows, one.only_then, one.only_now) == (other.rows, other.only_now, other.only_then)
    assert set(one.differences) == set(other.differences)


@given(ROWS)
def test_a_run_is_equal_to_itself_with_another_clock(rows):
    later = [row | {"seconds": 7.0, "time/steps_per_second": 9.0} for row in rows]
    assert compare(rows, later).differences == ()
    assert compare(rows, later).is_equal == bool(rows)


@given(VALUES, VALUES)
@example(0.0, -0.0)
@example(math.nan, None)
def test_values_are_compared_bit_for_bit(a, b):
    assert is_identical(a, b) == (bits(a) == bits(b))


def test_the_last_of_two_rows_of_a_step_counts():
    twice = [{"step": 1, "train/loss": 3.0}, {"step": 1, "train/loss": 2.0}]
    assert compare(twice, [{"step": 1, "train/loss": 2.0}]).is_equal


def test_the_text_of_equal_runs_is_a_line():
    rows = [{"step": s, "train/loss": 1 / s} for s in (1, 2)]
    assert compare(rows, rows).text(80) == "2 rows compared; every number is equal, bit for bit"
    assert compare(rows[:1], rows).text(80) == "1 row compared; every number is equal, bit for bit"
    assert compare(rows, []).text(80) == "there is no step for which both runs have a row"


def test_the_text_of_different_runs_is_a_table():
    then = [{"step": s, "train/loss": 1.0, "val/loss": 1.0} for s in (1, 2, 3, 4)]
    now = [then[0], then[1] | {"train/loss": 1.25}, then[3] | {"val/loss": None}]
    assert compare(then, now).text(80).splitlines() == [
        "3 rows compared; train/loss is the first to differ, at step 2",
        "1 row only then, the first at step 3",
        "",
        "metric      from step  rows  absolute  at  relative  at",
        "train/loss          2     1      0.25   2       0.2   2",
        "val/loss            4     1         -   -         -   -",
    ]


@given(ROWS, ROWS, st.integers(12, 100))
def test_the_text_keeps_to_the_width(then, now, width):
    text = compare(then, now).text(width)
    assert all(len(line) <= width for line in text.splitlines())

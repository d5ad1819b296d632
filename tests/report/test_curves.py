"""Curves from rows, and drawn with characters."""

import itertools

import pytest

from dlopt.report.curves import Curve, Panel, make_run_panels, render


def test_a_curve_has_points_only_for_finite_numbers():
    values = [1.0, "1", None, [1], float("nan"), float("inf"), -float("inf")]
    rows = [{"epoch": x, "train/loss": y} for x in values for y in values] + [{"train/loss": 1.0}]
    (panel,) = make_run_panels(rows)
    assert [(c.x, c.y) for c in panel.curves] == [([1.0], [1.0])]


def test_averaged_weights_have_a_curve_of_their_own():
    rows = [{"epoch": n, "train/loss": n, "val/loss": 2 * n} for n in (1, 2)]
    rows[1]["average/val/loss"] = 7
    (panel,) = make_run_panels(rows)
    assert [(c.label, c.y) for c in panel.curves] == [
        ("training", [1, 2]), ("validation", [2, 4]), ("averaged weights", [7]),
    ]  # fmt: skip


def panels(count, *lengths, end=3):
    """Return this many panels, each with one curve per length."""
    return [
        Panel(f"panel {i}", "loss", [
            Curve(f"line {j}", [end * (k + 1) / n for k in range(n)], [1 / (k + 1) for k in range(n)], colour=j)
            for j, n in enumerate(lengths)
        ])
        for i in range(count)
    ]  # fmt: skip


PICTURES = [
    (panels(2, 3, 3), 80), (panels(2, 3, 3, 2), 80), (panels(1, 5), 120), (panels(2, 5, 5), 120), (panels(1, 2, 2, 2), 40),
]  # fmt: skip


def test_a_picture_does_not_depend_on_earlier_ones():
    alone = [render(*picture, coloured=False) for picture in PICTURES]
    for one, other in itertools.product(range(len(PICTURES)), repeat=2):
        render(*PICTURES[one])
        assert render(*PICTURES[other], coloured=False) == alone[other]


def test_a_picture_that_failed_does_not_affect_the_next_one():
    alone = render(*PICTURES[1], coloured=False)
    broken = panels(2, 3)
    broken[1].curves.append(Curve("", [], []))
    broken[1].curves[0].x = []
    with pytest.raises(Exception):  # noqa: B017  # any error
        render(broken, 120)
    assert render(*PICTURES[1], coloured=False) == alone

"""Curves drawn with characters."""

import itertools

import pytest

from dlopt.report.curves import Curve, Panel
from dlopt.report.terminal_plot import render


def panels(count, *lengths, end=3):
    """So many panels, each with a curve of each of these lengths."""
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


def test_a_picture_does_not_depend_on_those_drawn_before():
    alone = [render(*picture, coloured=False) for picture in PICTURES]
    for one, other in itertools.product(range(len(PICTURES)), repeat=2):
        render(*PICTURES[one])
        assert render(*PICTURES[other], coloured=False) == alone[other]


def test_one_that_failed_half_way_leaves_nothing_behind():
    alone = render(*PICTURES[1], coloured=False)
    broken = panels(2, 3)
    broken[1].curves.append(Curve("", [], []))
    broken[1].curves[0].x = []
    with pytest.raises(Exception):  # noqa: B017  # whatever the drawing says of it
        render(broken, 120)
    assert render(*PICTURES[1], coloured=False) == alone

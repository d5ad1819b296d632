"""Curves from rows, and drawn with characters."""

import itertools

import pytest

from dlopt.report.curves import (
    Curve,
    Panel,
    choose_styles,
    compute_mean_curve,
    describe_counts,
    list_diagnostics,
    make_run_panels,
    render,
)
from dlopt.report.figures import plot_curves


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


def test_training_between_evaluations_is_a_thin_line_of_the_colour_of_training():
    rows = [{"epoch": n / 2, "recent/train/loss": n} for n in (1, 2)]
    rows[1] |= {"train/loss": 5, "val/loss": 6}
    (panel,) = make_run_panels(rows)
    assert [(c.label, c.y, c.colour, c.is_thin) for c in panel.curves] == [
        ("training", [5], 0, False), ("validation", [6], 1, False), ("training, recent steps", [1, 2], 0, True),
    ]  # fmt: skip
    assert list_diagnostics(rows) == []
    lines = plot_curves([panel], "").axes[0].lines
    assert lines[2].get_linewidth() < lines[0].get_linewidth() == lines[1].get_linewidth()
    assert lines[2].get_zorder() < lines[0].get_zorder()


ROWS = [{"epoch": n, "train/loss": n, "val/auc": 0.5, "lr": 0.1, "time/steps_per_second": 1, "gradient/norm": 2 * n,
         "gradient/norm/a.b": 3 * n, "gradient/norm/c": 4 * n} for n in (1, 2)]  # fmt: skip


def test_a_name_has_a_curve_and_with_a_slash_one_for_each_name_below_it():
    names = ["gradient/norm", "gradient/norm/", "auc", "lr", "missing", "grad"]
    found = {p.metric: {c.label: c.y for c in p.curves} for p in make_run_panels(ROWS, names)}
    assert found == {
        "gradient/norm": {"gradient/norm": [2, 4]}, "gradient/norm/": {"a.b": [3, 6], "c": [4, 8]},
        "auc": {"validation": [0.5, 0.5]}, "lr": {"lr": [0.1, 0.1]},
    }  # fmt: skip
    assert list_diagnostics(ROWS) == ["gradient/norm", "gradient/norm/"]
    assert {p.metric for p in make_run_panels(ROWS, list_diagnostics(ROWS))} == {"gradient/norm", "gradient/norm/"}


def test_two_settings_are_told_apart_by_colour_and_dash():
    grid = [{"arch": a, "lr": lr} for a in "abcde" for lr in (1, 2, 3)]
    styles = choose_styles(grid)
    assert styles == [(i, j) for i in range(5) for j in range(3)]
    assert choose_styles([{"lr": s["lr"], "arch": s["arch"]} for s in grid]) == styles  # five are too many for dashes
    for settings in ([{"a": i} for i in range(20)], [{"a": i, "b": j} for i in range(5) for j in range(5)]):
        assert len(set(choose_styles(settings))) == len(settings)
    assert choose_styles([{}]) == [(0, 0)]


def test_the_number_of_runs_is_named_once_or_for_each_line():
    repeats = [[{"epoch": 1.0, "a": float(i)}] for i in range(3)]
    three, two = compute_mean_curve("a", repeats), compute_mean_curve("a", [*repeats[:2], [{"epoch": 1.0}]])
    assert describe_counts([Panel("", "a", [three, three])]) == "n = 3"
    three.label, two.label = "x", "y"
    assert describe_counts([Panel("", "a", [three, two])]) == ""
    assert (three.label, two.label) == ("x (n = 3)", "y (n = 2)")


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


def test_a_nearly_constant_curve_is_flat_in_a_terminal():
    wave = [0.5 + 1e-5 * (-1) ** i for i in range(9)]
    text = render([Panel("", "loss", [Curve("", list(range(9)), wave)])], 60, coloured=False)
    assert sum(any("\u2800" < c < "\u2900" for c in line) for line in text.splitlines()) == 1


def test_a_picture_that_failed_does_not_affect_the_next_one():
    alone = render(*PICTURES[1], coloured=False)
    broken = panels(2, 3)
    broken[1].curves.append(Curve("", [], []))
    broken[1].curves[0].x = []
    with pytest.raises(Exception):  # noqa: B017  # any error
        render(broken, 120)
    assert render(*PICTURES[1], coloured=False) == alone

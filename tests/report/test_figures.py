"""Figures with any text, and of bounded size."""

import numpy as np
import pytest
from matplotlib.image import imread

from dlopt.report import figures
from dlopt.report.classification import MAX_PLOT_CLASSES
from dlopt.report.curves import Curve, Panel, make_diagnostic_panels

ODD = r"a $\frac{ dollar$"
"""Not a formula, although it has the signs of one."""


def draw_figures(name):
    """Draw every kind of figure with this text in all places."""
    curves = [Curve(name, [0.0, 1.0], [1.0, 2.0]), Curve(name, [0.0], [1.0], None, 1, 1)]
    panel = Panel(name, name, curves)
    yield figures.plot_curves([panel, panel], name)
    yield figures.plot_confusion(np.array([0, 1]), np.array([1, 1]), (name, "b"), name)
    yield figures.plot_predictions({name: [1.0, 2.0]}, {name: [1.0, 3.0]}, name)


def test_any_text_can_be_drawn(tmp_path):
    for i, figure in enumerate(draw_figures(ODD)):
        figures.save_figure(figure, tmp_path / f"{i}.png")
        assert imread(tmp_path / f"{i}.png").shape[0] > 100


def test_a_matrix_of_many_classes_has_a_bounded_size_and_more_are_refused():
    few, many = (
        figures.plot_confusion(np.arange(2), np.arange(2), list(map(str, range(n))), "").get_size_inches()
        for n in (10, MAX_PLOT_CLASSES)
    )
    assert few[1] == pytest.approx(7.0)
    assert many.max() < 45
    with pytest.raises(ValueError, match=f"{MAX_PLOT_CLASSES + 1} classes is too large to draw"):
        figures.plot_confusion(np.arange(2), np.arange(2), list(map(str, range(MAX_PLOT_CLASSES + 1))), "")


@pytest.mark.parametrize("middle", [0.5, -300.0])
def test_a_nearly_constant_curve_is_not_magnified(middle):
    for wave, least in ((1e-5, True), (0.1, False)):
        y = [middle * (1 + wave * (-1) ** i) for i in range(9)]
        (axes,) = figures.plot_curves([Panel("loss", "val/loss", [Curve("", list(range(9)), y)])], "").axes
        low, high = axes.get_ylim()
        assert (low + high) / 2 == pytest.approx(middle)
        assert (high - low == pytest.approx(0.02 * abs(middle), rel=1e-3)) == least
    limits = figures.compute_limits([middle, middle * (1 + 1e-5)], higher=False)
    assert limits[1] - limits[0] == pytest.approx(0.02 * abs(middle), rel=1e-3)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_many_panels_are_in_rows(count, shape):
    figure = figures.plot_curves([Panel("", "loss", [Curve("a", [1.0], [1.0])])] * count, "")
    assert figure.axes[0].get_gridspec().get_geometry() == shape


def test_a_curve_of_one_measurement_is_a_point():
    curves = [Curve("a", [1.0], [1.0]), Curve("b", [1.0, 2.0], [1.0, 3.0])]
    lines = figures.plot_curves([Panel("", "loss", curves)], "").axes[0].lines
    assert [line.get_marker() for line in lines] == ["o", "None"]


@pytest.mark.parametrize(
    ("sharpness", "scale"),
    [([50.0, 90.0], "log"), ([5e3, 9e3], "linear"), ([-1.0, 90.0], "linear"), ([0.0, 90.0], "linear")],
)
def test_a_sharpness_far_below_the_limit_is_still_seen_to_change(sharpness, scale):
    rows = [
        {"epoch": i + 1, "sharpness/preconditioned": value, "sharpness/limit": 38000.0}
        for i, value in enumerate(sharpness)
    ]
    (panel,) = make_diagnostic_panels(rows)
    axes = figures.plot_curves([panel], "x").axes[0]
    assert axes.get_yscale() == scale
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert scale == "linear" or {"10²", "10³", "10⁴"} <= set(labels)


def test_a_metric_keeps_its_linear_axis():
    panel = Panel("loss", "loss", [Curve("training", [1.0, 2.0], [1e-4, 10.0])])
    assert figures.plot_curves([panel], "x").axes[0].get_yscale() == "linear"


def test_a_density_shows_the_number_of_eigenvalues_in_each_bucket():
    axes = figures.plot_density([(-1.0, 0.5, 7.25), (0.5, 2.0, 0.0)], "").axes[0]
    values, edges, baseline = axes.patches[0].get_data()
    assert (values.tolist(), list(edges), baseline) == ([7.25, figures.FEW], [-1.0, 0.5, 2.0], figures.FEW)


def test_panels_with_other_lines_have_their_own_legends():
    one, two = Curve("a", [1.0], [1.0]), Curve("b", [1.0], [1.0], colour=1)
    same = figures.plot_curves([Panel("", "loss", [one, two]), Panel("", "accuracy", [one])], "")
    assert [len(legend.get_texts()) for legend in same.legends] == [2]
    other = Curve("layer", [1.0], [1.0])  # has the colour of the first line
    differing = figures.plot_curves([Panel("", "loss", [one, two]), Panel("", "norm", [other])], "")
    assert not differing.legends
    assert [axes.get_legend() is not None for axes in differing.axes] == [True, False]

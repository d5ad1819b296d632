"""Figures with any text, and of bounded size."""

import numpy as np
import pytest
from matplotlib.image import imread

from dlopt.report import figures
from dlopt.report.classification import MAX_PLOT_CLASSES
from dlopt.report.curves import Curve, Panel

ODD = r"a $\frac{ dollar$"
"""Not a formula, although it has the signs of one."""


def draw_figures(name):
    """Draw every kind of figure with this text in all places."""
    curves = [Curve(name, [0.0, 1.0], [1.0, 2.0]), Curve(name, [0.0], [1.0], None, 1, True)]
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

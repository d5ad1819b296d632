"""Pictures of runs, drawn with matplotlib: axes with names and units, bands where there are repetitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlopt.formatting import metric_label
from dlopt.report import classification
from dlopt.report.curves import Panel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#A03030")
"""Told apart by people who do not see red and green alike (Okabe and Ito 2008), on white and in print."""
STYLE: dict[Any, Any] = {
    "font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.frameon": False, "figure.dpi": 150,
    "text.parse_math": False,  # a $ in a name is one
}  # fmt: skip
MAX_INCHES = 40.0
"""Inches of a confusion matrix: 250 names can be read there, and the picture takes 150 MB of memory to draw."""
UNITS = {"accuracy": "accuracy (share)", "error": "error (share)"}


def save_figure(figure: Figure, file: Path) -> None:
    """Write a PNG (or what the file's ending says). ValueError for an ending that is no picture's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(file, bbox_inches="tight")


def plot_curves(panels: Sequence[Panel], heading: str) -> Figure:
    """One panel for each metric, beside each other: training dashed, validation solid, shared colours by line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0 * len(panels), 3.6), layout="constrained")
        many = max((len(p.curves) for p in panels), default=0)
        for i, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), i + 1)
            _panel(axes, panel)
        if many > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, many))
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure


def _panel(axes: Axes, panel: Panel) -> None:
    for curve in panel.curves:
        colour = COLOURS[curve.colour % len(COLOURS)]
        style = "--" if curve.is_dashed else ("-", "-.", ":")[curve.colour // len(COLOURS) % 3]
        axes.plot(curve.x, curve.y, style, color=colour, label=curve.label, linewidth=1.6)
        if curve.spread is not None:
            y, sd = np.asarray(curve.y), np.asarray(curve.spread)
            axes.fill_between(curve.x, y - sd, y + sd, color=colour, alpha=0.18, linewidth=0)
    name = panel.metric.rpartition("/")[2]
    axes.set_title(panel.title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(UNITS.get(name, metric_label(name)))


def plot_confusion(targets: np.ndarray, predicted: np.ndarray, names: Sequence[str], heading: str) -> Figure:
    """A confusion matrix: rows are the true classes, columns what the network said; shades are shares of a row.

    ValueError for more classes than can be drawn.
    """
    if len(names) > classification.MAX_PLOT_CLASSES:
        raise ValueError(
            f"a matrix of {len(names)} classes is too large to draw; {classification.MAX_PLOT_CLASSES} can be"
        )
    table = classification.confusion_matrix(targets, predicted, len(names))
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = max(4.0, min(0.55 * len(names), MAX_INCHES) + 1.5)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(size + 1.0, size), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        rotated = max(map(len, names)) > 3
        axes.set_xticks(range(len(names)), names, rotation=90 if rotated else 0)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if len(names) <= 20:
            for (i, j), n in np.ndenumerate(table):
                if n:
                    axes.text(j, i, str(n), ha="center", va="center", fontsize=8,
                              color="white" if shares[i, j] > 0.5 else "#333333")  # fmt: skip
        figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure


def plot_predictions(truth: Mapping[str, Sequence[float]], said: Mapping[str, Sequence[float]], heading: str) -> Figure:
    """What a network said against what is true, a panel for each number that is predicted."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(truth), 4.0), layout="constrained")
        for i, (name, y) in enumerate(truth.items()):
            axes: Any = figure.add_subplot(1, len(truth), i + 1)
            axes.plot(y, said[name], ".", color=COLOURS[0], alpha=0.5, markersize=4)
            ends = [min(*y, *said[name]), max(*y, *said[name])]
            axes.plot(ends, ends, color="#666666", linewidth=1.0)
            axes.set_xlabel(f"true {name}")
            axes.set_ylabel(f"predicted {name}")
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure

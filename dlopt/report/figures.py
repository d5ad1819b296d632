"""Figures of runs, drawn with matplotlib: named axes with units, bands over repeats."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlopt.formatting import metric_label
from dlopt.report import classification
from dlopt.report.curves import Panel, widen_limits
from dlopt.storage import atomic
from dlopt.storage.safe_read import to_printable

mpl.rcdefaults()  # a matplotlibrc in the working directory may be someone else's
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666", "#A03030")
"""Distinct for colour-blind readers (Okabe and Ito 2008), on white and in print."""
DASHES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.frameon": False, "figure.dpi": 150,
    "text.parse_math": False,  # a $ in a name is a dollar sign
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MAX_INCHES = 40.0
"""Largest side in inches: 250 class names are legible, and drawing takes 150 MB of memory."""
FENCE = 3.0
"""Values worse than the worse quartile by this many interquartile ranges are drawn at the edge."""
COLUMNS = 4
"""Panels in a row of small multiples."""
FEW = 0.1
"""Number of eigenvalues down to which a density is drawn: fewer count as none."""
CURVE_COLUMNS = 3
"""Largest number of panels of curves in a row."""


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a figure in the format of the file suffix, by default png. Return the file.

    Raises ValueError with the file and the cause if it cannot be written, or its ending is not a figure format.
    """
    file = file if file.suffix else file.with_suffix(".png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            figure.savefig(file, bbox_inches="tight")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a format needs LaTeX
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"--png {to_printable(str(file))}: {reason}") from error
    return file


def replace_picture(figure: Figure, file: Path) -> Path:
    """Write a png file atomically, never through a link, and make its folder. Return the file."""
    picture = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(picture, format="png", bbox_inches="tight")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.atomic_write_bytes(file, picture.getvalue())
    return file


def add_heading(figure: Figure, heading: str) -> Figure:
    """Add a heading at the upper left, and return the figure."""
    figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
    return figure


def format_power(value: float, position: object = None) -> str:
    """Return the label of a tick of a logarithmic axis: 10⁻³; nothing between powers of ten."""
    if value == 0:
        return "0"
    exponent = math.log10(abs(value))
    digits = str(round(exponent)).translate(SUPERSCRIPTS)
    return f"{'−' if value < 0 else ''}10{digits}" if abs(exponent - round(exponent)) < 1e-9 else ""


def add_legend(figure: Figure) -> None:
    """Add one legend for all panels, below them."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))


def compute_limits(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """Return the range from the best value to the worst, or to the fence beyond which values are outliers."""
    if not values:
        return 0.0, 1.0
    lower, upper = (float(q) for q in np.quantile(values, (0.25, 0.75)))
    fence = FENCE * (upper - lower)
    low, high = min(values), max(values)
    low, high = (max(low, lower - fence), high) if higher else (low, min(high, upper + fence))
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return widen_limits(low - room, high + room)


def plot_curves(panels: Sequence[Panel], heading: str) -> Figure:
    """Plot one panel for each metric: training is dashed, validation is solid, training between evaluations is thin.

    There is one legend if the panels have the same lines, otherwise one in each panel with several lines.
    """
    rows = -(-len(panels) // CURVE_COLUMNS)
    columns = -(-len(panels) // rows)  # four panels are two rows of two
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0 * columns, 3.6 * rows), layout="constrained")
        for i, panel in enumerate(panels):
            _plot_panel(figure.add_subplot(rows, columns, i + 1), panel)
        lines = [[(c.label, c.colour, c.dash) for c in panel.curves] for panel in panels]
        longest = max(lines, key=len)
        if all(line in longest for each in lines for line in each):
            if len(longest) > 1:
                handles, labels = figure.axes[lines.index(longest)].get_legend_handles_labels()
                figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        else:
            for axes, each in zip(figure.axes, lines, strict=True):
                if len(each) > 1:
                    axes.legend(fontsize=8)
        return add_heading(figure, heading)


def _plot_panel(axes: Axes, panel: Panel) -> None:
    for curve in panel.curves:
        colour = COLOURS[curve.colour % len(COLOURS)]
        width, layer = (0.6, 1.5) if curve.is_thin else (1.6, 2.0)
        marker = "o" if len(curve.x) == 1 else None  # a line of one point is invisible
        axes.plot(curve.x, curve.y, DASHES[curve.dash], color=colour, label=curve.label, linewidth=width, zorder=layer,
                  marker=marker)  # fmt: skip
        if curve.spread is not None:
            y, sd = np.asarray(curve.y), np.asarray(curve.spread)
            axes.fill_between(curve.x, y - sd, y + sd, color=colour, alpha=0.18, linewidth=0)
    if panel.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(format_power)
    else:
        axes.set_ylim(*widen_limits(*axes.get_ylim()))
    axes.set_title(panel.title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(metric_label(panel.metric.rstrip("/").rpartition("/")[2]))


def plot_confusion(targets: np.ndarray, predictions: np.ndarray, names: Sequence[str], heading: str) -> Figure:
    """Plot a confusion matrix: rows are true classes, columns are predicted ones; shades are fractions of a row.

    Raises ValueError for more classes than can be drawn.
    """
    if len(names) > classification.MAX_PLOT_CLASSES:
        raise ValueError(
            f"a matrix of {len(names)} classes is too large to draw; {classification.MAX_PLOT_CLASSES} can be"
        )
    counts = classification.confusion_matrix(targets, predictions, len(names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = max(4.0, min(0.55 * len(names), MAX_INCHES) + 1.5)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(size + 1.0, size), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        if len(names) <= classification.MAX_TEXT_CLASSES:
            for (i, j), n in np.ndenumerate(counts):
                if n:
                    axes.text(j, i, str(n), ha="center", va="center", fontsize=8,
                              color="white" if shares[i, j] > 0.5 else "#333333")  # fmt: skip
        figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
        return add_heading(figure, heading)


def plot_predictions(
    truth: Mapping[str, Sequence[float]], predictions: Mapping[str, Sequence[float]], heading: str
) -> Figure:
    """Plot predictions against true values, one panel for each target."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(truth), 4.0), layout="constrained")
        for i, (name, y) in enumerate(truth.items()):
            axes: Any = figure.add_subplot(1, len(truth), i + 1)
            axes.plot(y, predictions[name], ".", color=COLOURS[0], alpha=0.5, markersize=4)
            ends = [min(*y, *predictions[name]), max(*y, *predictions[name])]
            axes.plot(ends, ends, color="#666666", linewidth=1.0)
            axes.set_xlabel(f"true {name}")
            axes.set_ylabel(f"predicted {name}")
        return add_heading(figure, heading)


def plot_density(buckets: Sequence[tuple[float, float, float]], heading: str) -> Figure:
    """Plot how many eigenvalues are estimated to be in each bucket: left edge, right edge and number."""
    edges = [buckets[0][0], *(right for _, right, _ in buckets)]
    counts = np.maximum([count for *_, count in buckets], FEW)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(counts, edges, baseline=FEW, fill=True, color=COLOURS[0], alpha=0.6)
        axes.axhline(1.0, color="#666666", linewidth=0.8, linestyle=":")
        axes.axvline(0.0, color="#666666", linewidth=0.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(format_power)
        axes.set_ylim(FEW, 3 * counts.max())
        axes.set_xlabel("eigenvalue")
        axes.set_ylabel("eigenvalues in each bucket")
        return add_heading(figure, heading)


class LabeledLine(NamedTuple):
    """One function: its arguments, its values, and its label in the legend."""

    x: Sequence[float]
    y: Sequence[float]
    label: str


def plot_small_multiples(
    lines: Mapping[str, Sequence[LabeledLine]], across: str, limits: tuple[float, float], up: str = ""
) -> Figure:
    """Plot a small panel for each name, all on the same axes.

    across, up   labels of the axes
    limits       ends of the vertical axis
    """
    rows = -(-len(lines) // COLUMNS)
    with mpl.rc_context(STYLE | {"font.size": 9.0}):
        figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * rows + 0.5), layout="constrained")
        panels = list(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (name, curves) in zip(panels, lines.items(), strict=False):
            for line, colour, style in zip(curves, COLOURS, ("-", "--"), strict=False):
                axes.plot(line.x, line.y, style, color=colour, label=line.label, linewidth=1.6)
            axes.set_title(name)
            axes.set_ylim(*limits)
        for axes in panels[len(lines) :]:
            axes.remove()
        for axes in panels[max(len(lines) - COLUMNS, 0) : len(lines)]:
            axes.tick_params(labelbottom=True)  # also those above an empty place
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        figure.supxlabel(across, fontsize=9)
        figure.supylabel(up, fontsize=9)
        return figure

"""Figures of loss landscapes: a curve along one direction; contours and a surface over two, with the run's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from torch import Tensor

from dlopt.formatting import metric_label
from dlopt.landscape.slices import Slice, TrajectoryPath
from dlopt.report.figures import COLOURS, STYLE, add_heading

LOG_RANGE = 20.0
"""Levels are logarithmic if the largest value is this many times the smallest one."""
LEVELS = 24
ROUNDING = 1e-6
"""Values that differ by less, relative to their size, are drawn as equal."""
NOT_FINITE = "#E4E4E4"
"""The colour of places at which a metric is not finite."""
COLOURMAP = "cividis"
PATH, OUTSIDE = "#D55E00", "Reds"


def plot_profile(grid: Slice, metrics: Mapping[str, Tensor], metric: str, heading: str) -> Figure:
    """Plot the metric along one direction, and on a second axis the error, or the loss if the metric is another one."""
    x = grid.axes[0].numpy()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        y = _to_finite(metrics[metric])
        axes.plot(x, y, color=COLOURS[0], linewidth=1.8, label=metric_label(metric))
        if _is_wide(y):
            axes.set_yscale("log")
            _label_log_axis(axes.yaxis, y)
        axes.set_xlabel(grid.labels[0])
        axes.set_ylabel(metric_label(metric), color=COLOURS[0])
        second = "error" if metric == "loss" else "loss"
        if second in metrics:
            other: Any = axes.twinx()
            other.plot(x, _to_finite(metrics[second]), "--", color=COLOURS[1], linewidth=1.4)
            other.set_ylabel(second, color=COLOURS[1])
            other.set_ylim(bottom=0.0)
            other.grid(visible=False)
            other.spines["right"].set_visible(True)
        marks = [(mark.coordinates[0], mark.label) for mark in grid.marks] or [(0.0, "the run")]
        for place, label in marks:
            axes.axvline(place, color="#666666", linewidth=0.9, linestyle=":")
            axes.annotate(label, (place, 0.99), xycoords=("data", "axes fraction"), xytext=(3, 0), fontsize=8,
                          textcoords="offset points", rotation=90, va="top", color="#444444")  # fmt: skip
        if grid.path is not None:
            at = grid.path.points.coordinates[:, 0].numpy()
            _scatter_path(figure, axes, at, np.interp(at, x, y), grid.path)
        for a, b in _find_gaps(x, y):
            axes.axvspan(a, b, color=NOT_FINITE, linewidth=0.0)
        axes.set_xlim(x[0], x[-1])
        _label_extremes(axes.xaxis, x)
        _note_not_finite(axes, y, metric)
        return add_heading(figure, heading)


def plot_contours(grid: Slice, values: Tensor, metric: str, heading: str) -> Figure:
    """Plot the contours of a metric over two directions, with the marks and the path of a slice.

    A point of the path is the darker, the larger its projection error.
    """
    a, b = (axis.numpy() for axis in grid.axes)
    z = _to_finite(values).reshape(len(b), len(a))
    levels, norm = _choose_levels(z)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(6.6, 5.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_facecolor(NOT_FINITE)
        axes.contourf(a, b, z, levels=levels, norm=norm, cmap=COLOURMAP, extend="both")
        lines = axes.contour(a, b, z, levels=levels[::3], norm=norm, colors="white", linewidths=0.6, alpha=0.8)
        axes.clabel(lines, fontsize=7, fmt=lambda value: f"{value:.3g}")
        bar = figure.colorbar(ScalarMappable(norm, COLOURMAP), ax=axes, label=metric_label(metric), pad=0.02)
        if isinstance(norm, LogNorm):
            _label_log_axis(bar.ax.yaxis, z)
        if grid.path is not None:
            _plot_path(figure, axes, grid)
        elif not grid.marks:
            axes.plot(0.0, 0.0, "*", color="white", markeredgecolor="#222222", markersize=12, clip_on=False)
        for mark in grid.marks:
            x, y = mark.coordinates
            axes.plot(x, y, "o", color=PATH, markeredgecolor="white", markersize=7)
            _annotate(axes, mark.label, x, y, a)
        if grid.is_metric and _is_square(a, b):
            axes.set_aspect("equal")
        axes.set_xlabel(grid.labels[0])
        axes.set_ylabel(grid.labels[1])
        axes.set_xlim(a[0], a[-1])
        axes.set_ylim(b[0], b[-1])
        _label_extremes(axes.xaxis, a)
        _label_extremes(axes.yaxis, b)
        _note_not_finite(axes, z, metric)
        return add_heading(figure, heading)


def plot_surface(grid: Slice, values: Tensor, metric: str, heading: str) -> Figure:
    """Plot a metric over two directions as a surface, its logarithm if the range is wide."""
    a, b = (axis.numpy() for axis in grid.axes)
    z = _to_finite(values).reshape(len(b), len(a))
    is_log = _is_wide(z)
    height = np.log10(z) if is_log else z
    low, high = _choose_limits(height)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6, 5.2), layout="constrained")
        axes: Any = figure.add_subplot(projection="3d")
        axes.plot_surface(*np.meshgrid(a, b), height, cmap=COLOURMAP, rcount=len(b), ccount=len(a), linewidth=0.15,
                          edgecolor=(1, 1, 1, 0.25), antialiased=True, vmin=low, vmax=high)  # fmt: skip
        axes.view_init(elev=32, azim=-58)
        for side in (axes.xaxis, axes.yaxis, axes.zaxis):
            side.set_pane_color((1, 1, 1, 0))
            side.set_major_locator(MaxNLocator(5))
        axes.tick_params(labelsize=8)
        if is_log:
            ticks = _choose_log_ticks(z)
            axes.zaxis.set_ticks(np.log10(ticks), [f"{tick:g}" for tick in ticks])
        elif high > np.nanmax(height):  # a constant
            axes.set_zlim(2 * low - high, high)
        _label_extremes(axes.xaxis, a)
        _label_extremes(axes.yaxis, b)
        axes.set_xlabel(grid.labels[0], fontsize=8)
        axes.set_ylabel(grid.labels[1], fontsize=8)
        axes.set_zlabel(metric_label(metric), fontsize=8)
        _note_not_finite(axes, z, metric)
        return add_heading(figure, heading)


def plot_similarity(steps: Sequence[int], layers: Mapping[str, Tensor], heading: str) -> Figure:
    """Plot the similarity of each layer to the end of training over the steps; later layers are lighter."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        shades = mpl.colormaps[COLOURMAP](np.linspace(0.0, 0.9, len(layers)))
        for (name, values), shade in zip(layers.items(), shades, strict=True):
            axes.plot(steps, values.numpy(), "o-", color=shade, markersize=3, linewidth=1.5, label=name)
        axes.set_ylim(0.0, 1.02)
        axes.set_xlabel("step")
        axes.set_ylabel("linear CKA to the end")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside right center", fontsize=8, ncols=-(-len(layers) // 16))
        return add_heading(figure, heading)


def _plot_path(figure: Figure, axes: Axes, grid: Slice) -> None:
    """Plot the projected trajectory; shades tell the relative projection error of each point."""
    assert grid.path is not None
    x, y = grid.path.points.coordinates.T.numpy()
    axes.plot(x, y, color="white", linewidth=2.6, solid_capstyle="round")
    axes.plot(x, y, color=PATH, linewidth=1.3, solid_capstyle="round")
    _scatter_path(figure, axes, x, y, grid.path)
    for i in sorted({0, len(x) - 1}):
        _annotate(axes, f"step {grid.path.steps[i]:,}", x[i], y[i], grid.axes[0].numpy())


def _scatter_path(figure: Figure, axes: Axes, x: np.ndarray, y: np.ndarray, path: TrajectoryPath) -> None:
    """Plot the points of a path in shades of their projection error."""
    error = path.points.error.numpy()
    points = axes.scatter(x, y, c=error, cmap=OUTSIDE, vmin=0.0, vmax=1.0, s=26, edgecolor="#333333", linewidth=0.5,
                          zorder=3)  # fmt: skip
    label = "projection error of the steps of the run"
    figure.colorbar(points, ax=axes, label=label, location="bottom", shrink=0.6, aspect=30, pad=0.02)


def _annotate(axes: Axes, text: str, x: float, y: float, a: np.ndarray) -> None:
    """Write a text next to a point: at its left if it lies in the right half of the axis a."""
    is_right = x > (a[0] + a[-1]) / 2
    axes.annotate(text, (x, y), xytext=(-6 if is_right else 6, 6), textcoords="offset points", fontsize=8,
                  ha="right" if is_right else "left", color="white", path_effects=_outline())  # fmt: skip


def _note_not_finite(axes: Any, z: np.ndarray, metric: str) -> None:
    """Say at how many points the metric is not finite, and that they are grey, or left out of a surface."""
    count = int(np.isnan(z).sum())
    if not count:
        return
    is_surface = hasattr(axes, "zaxis")
    where = "left out" if is_surface else "grey"
    text = f"{where}: {metric_label(metric)} is NaN or infinite at {count:,} of {z.size:,} points"
    write = axes.text2D if is_surface else axes.text
    write(0.02, 0.95 if is_surface else 0.02, text, transform=axes.transAxes, fontsize=8, color="#222222", zorder=5,
          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2})  # fmt: skip


def _find_gaps(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    """Return the intervals of an axis between finite values, or its ends, in which values are NaN."""
    finite = np.flatnonzero(np.isfinite(y))
    ends = [0, *finite, len(x) - 1]
    lost = [(i, j) for i, j in pairwise(ends) if np.isnan(y[i : j + 1]).any()]
    return [(x[i], x[j]) for i, j in lost]


def _choose_levels(z: np.ndarray) -> tuple[np.ndarray, Normalize]:
    """Return levels between the smallest and the largest finite value, logarithmic if the range is wide."""
    low, high = _choose_limits(z)
    if _is_wide(z):
        return np.geomspace(low, high, LEVELS + 1), LogNorm(low, high)
    return np.linspace(low, high, LEVELS + 1), Normalize(low, high)


def _choose_limits(z: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest finite value, or a larger one if they are equal within rounding."""
    low, high = float(np.nanmin(z)), float(np.nanmax(z))
    return (low, high) if high - low > ROUNDING * max(abs(low), abs(high)) else (low, low + max(abs(low), 1.0) * 1e-3)


def _is_wide(z: np.ndarray) -> bool:
    low, high = np.nanmin(z), np.nanmax(z)
    return bool(low > 0 and high / low > LOG_RANGE)


def _is_square(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether equal scales of both axes make a picture that is not too narrow."""
    ratio = (a[-1] - a[0]) / (b[-1] - b[0])
    return bool(0.5 <= ratio <= 2.0)


def _to_finite(values: Tensor) -> np.ndarray:
    """Return values as an array in which those that are not finite are NaN."""
    x = values.double().numpy()
    return np.where(np.isfinite(x), x, np.nan)


def _label_log_axis(axis: Any, z: np.ndarray) -> None:
    """Label a logarithmic axis with plain numbers; with 2 and 5 between the powers of ten if there are few."""
    few = np.nanmax(z) / np.nanmin(z) < 1e4
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(lambda value, position: f"{value:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _choose_log_ticks(z: np.ndarray) -> np.ndarray:
    """Return ticks of a logarithmic axis between the smallest and the largest value."""
    low, high = np.nanmin(z), np.nanmax(z)
    subs = (1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)
    ticks = np.asarray(LogLocator(subs=subs, numticks=8).tick_values(low, high))
    return ticks[(ticks >= low) & (ticks <= high)]


def _label_extremes(axis: Any, x: np.ndarray) -> None:
    """Label an axis of very large or small numbers with their powers of ten, which would stand apart otherwise."""
    size = np.abs(x).max()
    if not 1e-3 <= size < 1e4:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(lambda value, position: f"{value:.3g}")


def _outline() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="#333333")]

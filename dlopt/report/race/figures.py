"""The picture of a race: paths on the contours of the surface, and f - f* against evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dlopt.landscape.grid import ContourGrid
from dlopt.landscape.race import TOLERANCE, Landmarks, Track
from dlopt.report.figures import COLOURS, DASHES, STYLE

INK, HALO = "#303840", "white"
SHADES = LinearSegmentedColormap.from_list("slate", ["#8fa3b5", "#b9c6d2", "#dfe5ea", "#f6f8f9"])
"""Lightness rises evenly with f, with little colour, so that the paths stand out."""
LEVELS = 18
"""Contours of a picture."""
_MARK = {"linestyle": "none", "markeredgecolor": INK}
MARKS: dict[str, dict[str, Any]] = {
    "start": {"marker": "o", "markersize": 6, "markerfacecolor": "white", "markeredgewidth": 1.4, "zorder": 5, **_MARK},
    "minimum": {"marker": "*", "markersize": 13, "markerfacecolor": "#ffd23f", "zorder": 4.5, **_MARK},
    "saddle point": {"marker": "X", "markersize": 8, "markerfacecolor": "white", "zorder": 3.5, **_MARK},
}
SMALLEST = 1e-13
"""Smallest f - f* that is drawn: below it is rounding."""


GROWTH = 1e4
"""Largest multiple of f - f* at the start that is drawn, of a path that grows."""


class Race(NamedTuple):
    """A race to draw.

    title       above the picture
    tracks      the paths of each optimizer, by its name
    labels      the text of each optimizer in the legend, by its name
    landmarks   what is known of the surface
    grid        its values, if it has two weights
    """

    title: str
    tracks: Mapping[str, Sequence[Track]]
    labels: Mapping[str, str]
    landmarks: Landmarks
    grid: ContourGrid | None

    @property
    def every_track(self) -> list[Track]:
        return [track for tracks in self.tracks.values() for track in tracks]


def line_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the colour and the dashes of the line of each label; all differ up to 32 labels."""
    count = len(COLOURS)
    return {
        label: {"color": COLOURS[i % count], "linestyle": DASHES[i // count % len(DASHES)]}
        for i, label in enumerate(labels)
    }


def plot_race(race: Race) -> Figure:
    """Plot the paths on the contours, if there are two weights, and f - f* against evaluations, with one legend."""
    with mpl.rc_context(STYLE | {"axes.titleweight": "normal"}):
        columns = 1 + (race.grid is not None)
        figure = Figure(figsize=(5.6 * columns, 4.9), layout="constrained")
        panels: Any = figure.subplots(1, columns, squeeze=False)[0]
        if race.grid is not None:
            draw_contours(panels[0], race.grid, race.landmarks)
            draw_paths(panels[0], race)
            draw_marks(panels[0], race)
        _plot_values(panels[-1], race)
        handles: dict[str, Any] = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        draw_legend(figure, handles, fontsize=9)
        figure.suptitle(race.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        return figure


def draw_legend(figure: Figure, handles: Mapping[str, Any], fontsize: float) -> None:
    """Draw the legend of labels below the axes."""
    columns = choose_columns(list(handles), figure.get_figwidth(), fontsize)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=fontsize)


def choose_columns(labels: Sequence[str], width: float, fontsize: float) -> int:
    """Return the number of columns of a legend, at most 7, in a figure of a width in inches."""
    room = 130 * width / fontsize  # in characters
    return max(1, min(7, len(labels), int(room / (max(map(len, labels)) + 8))))  # 8: a line and the gaps


def draw_contours(axes: Axes, grid: ContourGrid, landmarks: Landmarks) -> None:
    """Draw the surface in shades and lines, with levels by quantiles of log(f - f*), or of f without a minimum."""
    f = grid.f.numpy()
    levels = choose_levels(f, landmarks.minimum)
    shades = SHADES(np.linspace(0, 1, len(levels) + 1))
    axes.contourf(grid.x, grid.y, f, levels, colors=shades, extend="both")
    axes.contour(grid.x, grid.y, f, levels, colors="#6b7d8f", linewidths=0.45, linestyles="solid", alpha=0.7)
    axes.set_xlim(grid.x[0].item(), grid.x[-1].item())
    axes.set_ylim(grid.y[0].item(), grid.y[-1].item())
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.grid(visible=False)


def choose_levels(f: np.ndarray, minimum: float | None) -> np.ndarray:
    """Return increasing levels of f: half way between log-spaced ones and quantiles of log(f - f*).

    Log-spaced ones alone crowd where f is steep, and quantiles alone where it is flat.
    """
    finite = f[np.isfinite(f)]
    shares = np.linspace(0.01, 0.99, LEVELS)
    if minimum is None:
        quantiles = np.quantile(finite, shares)
        return np.unique((quantiles + np.linspace(quantiles[0], quantiles[-1], LEVELS)) / 2)
    logs = np.log(np.maximum(finite - minimum, 1e-12))
    quantiles = np.quantile(logs, shares)
    return np.unique(minimum + np.exp((quantiles + np.linspace(quantiles[0], quantiles[-1], LEVELS)) / 2))


def draw_paths(axes: Axes, race: Race) -> None:
    """Draw every path, with a dot at its end."""
    for name, style in line_styles(list(race.tracks)).items():
        label = race.labels[name]
        for i, track in enumerate(race.tracks[name]):
            x, y = track.w.T.numpy()
            halo = [withStroke(linewidth=2.8, foreground=HALO, alpha=0.6)]
            (line,) = axes.plot(x, y, linewidth=1.5, label=label if i == 0 else None, path_effects=halo, **style)
            line.set_solid_capstyle("round")
            axes.plot(
                x[-1:],
                y[-1:],
                "o",
                markersize=5.5,
                color=style["color"],
                markeredgecolor=HALO,
                markeredgewidth=0.9,
                zorder=4,
            )


def draw_marks(axes: Axes, race: Race) -> None:
    """Mark starts, minima and saddle points."""
    starts = np.stack([track.w[0].numpy() for track in race.every_track])
    points = {"start": starts, "minimum": race.landmarks.minima.numpy(), "saddle point": race.landmarks.saddles.numpy()}
    for name, place in points.items():
        if len(place):
            axes.plot(*np.unique(place, axis=0).T, label=name, **MARKS[name])


def _plot_values(axes: Axes, race: Race) -> None:
    """Plot f - f* against evaluations on log scales, or f if it has no known minimum.

    A bold line is the level below which a path stays, the largest value from there on; a thin one is each value. A path
    that ends above its start stays below nothing: its bold line is each value.
    """
    minimum = race.landmarks.minimum
    styles = line_styles(list(race.tracks))
    low, high = _choose_limits(race)
    end = 1.0
    for name, each in race.tracks.items():
        label, style = race.labels[name], styles[name]
        for i, track in enumerate(each):
            f = track.f.numpy() - (minimum or 0.0)
            if minimum is not None:
                f = np.maximum(f, SMALLEST)
            evaluations = track.evaluations.numpy()
            bold = f if f[-1] > f[0] else np.maximum.accumulate(f[::-1])[::-1]
            inside = np.flatnonzero((bold > low) & (bold < high))
            end = max(end, float(evaluations[min(inside.max(initial=0) + 1, len(f) - 1)]))
            strength = 1.0 if len(each) == 1 else 0.6
            axes.plot(evaluations, f, linewidth=0.6, alpha=0.35 * strength, **style)
            axes.plot(evaluations, bold, linewidth=1.7, alpha=strength, label=label if i == 0 else None, **style)
    axes.set_xscale("symlog", linthresh=1, linscale=0.3)  # from 0, as in the table
    axes.xaxis.set_major_formatter(_format_power)
    axes.set_xlim(-0.1, 1.3 * end)
    axes.set_ylim(low, high)
    axes.set_xlabel("evaluations (values, gradients, Hessian products)")
    if minimum is None:
        axes.set_ylabel("f")
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_format_power)
    axes.set_ylim(low, high)
    axes.axhline(TOLERANCE, color=INK, linewidth=0.8, linestyle=":")
    at: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "textcoords": "offset points",
        "fontsize": 8,
        "color": INK,
    }
    axes.annotate(f"converged: f − f* ≤ {_format_power(TOLERANCE)}", (0, TOLERANCE), xytext=(5, -10), **at)
    axes.set_ylabel("f − f* (bold: it stays below)")


def _choose_limits(race: Race) -> tuple[float, float]:
    """Return the ends of the axis of f - f*, or of f: from rounding errors, or the picture's valleys, to the starts."""
    minimum, every = race.landmarks.minimum, race.every_track
    first = [track.f[0].item() for track in every]
    if minimum is not None:
        gaps = np.concatenate([track.f.numpy() for track in every]) - minimum
        start = max(max(first) - minimum, TOLERANCE)  # a race may start at a minimum
        grown = max(track.f[-1].item() - minimum for track in every)
        high = max(30 * start, min(3 * grown, GROWTH * start))
        return max(min(float(np.nanmin(gaps)) / 3, TOLERANCE / 30), SMALLEST), high
    last = [track.f.min().item() for track in every if track.ending in ("steps", "still")]
    lowest = float(np.nanquantile(race.grid.f, 0.02)) if race.grid is not None else min(last, default=min(first))
    lowest = min(*first, max(lowest, min(last, default=lowest)))
    room = 0.1 * (max(first) - lowest) or 1.0
    return lowest - room, max(first) + room


def _format_power(value: float, _: Any = None) -> str:
    """Return a power of ten with raised digits, as the label of a tick; mathematics in text is not parsed."""
    return (
        "0"
        if value == 0
        else "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )

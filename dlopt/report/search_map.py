"""A map of the objective of a search over two hyperparameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dlopt.analysis.importance import Level, group_by_level
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import SearchRecord, TrialRecord
from dlopt.formatting import format_metric
from dlopt.report.figures import COLOURS, MAX_INCHES, STYLE, add_heading, add_legend, compute_limits
from dlopt.report.search_scales import MARKS, label_objective, set_level_ticks, set_scale

MAX_LABELED_CELLS = 15
"""Largest number of values on a side of a map with labels in its cells."""


def plot_heat_map(search: SearchRecord, across: SearchAxis, up: SearchAxis, heading: str) -> Figure:
    """Plot the objective over two hyperparameters, darker for better values, with a frame around the best.

    Two intervals, or fine grids: a point for each trial, a cross for one that diverged. Otherwise cells with the mean
    of their trials and, for several, their number; intervals are binned, and a cell without a value is grey.
    """
    is_scatter = across.is_binned and up.is_binned
    with mpl.rc_context(STYLE | {"axes.grid": is_scatter}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes: Any = figure.add_subplot()
        picture = (_plot_scatter if is_scatter else _plot_cells)(axes, search, across, up)
        axes.set_xlabel(across.key)
        axes.set_ylabel(up.key)
        if not is_scatter:
            width, height = (0.75 * n + 2.6 for n in (axes.get_xlim()[1], axes.get_ylim()[1]))
            figure.set_size_inches(min(max(width, 5.0), MAX_INCHES), min(max(height, 3.6), MAX_INCHES))
        label = f"{'' if is_scatter else 'mean '}{label_objective(search)}"
        figure.colorbar(picture, ax=axes, label=label, shrink=0.9)
        return add_heading(figure, heading)


def _make_shades(search: SearchRecord, values: Sequence[float]) -> dict[str, Any]:
    norm = Normalize(*compute_limits(values, search.higher_is_better))
    return {"cmap": "Blues" if search.higher_is_better else "Blues_r", "norm": norm}


def _plot_scatter(axes: Any, search: SearchRecord, across: SearchAxis, up: SearchAxis) -> Any:
    trials = [t for t in search.trials if across.key in t.point and up.key in t.point]
    set_scale(axes.xaxis, across)
    set_scale(axes.yaxis, up)

    def place(group: Sequence[TrialRecord]) -> tuple[list[Any], list[Any]]:
        return [t.point[across.key] for t in group], [t.point[up.key] for t in group]

    valued = [t for t in trials if t.value is not None]
    values = [t.value for t in valued if t.value is not None]
    shades = _make_shades(search, values)
    picture = axes.scatter(*place(valued), c=values, s=36, edgecolors="#888888", linewidths=0.4, **shades)
    for state, (marker, colour) in MARKS.items():
        group = [t for t in trials if t.state == state]
        if group:
            axes.scatter(*place(group), s=26, marker=marker, color=colour, linewidths=1.2, label=state)
    if search.best in valued:
        best = place([search.best])
        axes.scatter(*best, s=130, facecolors="none", edgecolors=COLOURS[1], linewidths=1.8, label="best")
    add_legend(axes.figure)
    return picture


def _plot_cells(axes: Any, search: SearchRecord, across: SearchAxis, up: SearchAxis) -> Any:
    columns, rows = group_by_level(across, search.trials), group_by_level(up, search.trials)
    column = {t.number: j for j, level in enumerate(columns) for t in level.trials}
    row = {t.number: i for i, level in enumerate(rows) for t in level.trials}
    cells: dict[tuple[int, int], list[TrialRecord]] = {}
    for t in search.trials:
        if t.number in column and t.number in row:
            cells.setdefault((row[t.number], column[t.number]), []).append(t)
    table = np.full((max(len(rows), 1), max(len(columns), 1)), math.nan)
    for cell, trials in cells.items():
        table[cell] = Level("", 0.0, tuple(trials)).mean  # None becomes NaN
    axes.set_facecolor("#e4e4e4")
    shades = _make_shades(search, table[np.isfinite(table)].tolist())
    picture = axes.imshow(np.ma.masked_invalid(table), origin="lower", aspect="auto", **shades)
    if max(table.shape) <= MAX_LABELED_CELLS:
        for (i, j), trials in cells.items():
            is_dark = np.isfinite(table[i, j]) and (shades["norm"](table[i, j]) > 0.55) == search.higher_is_better
            axes.text(j, i, _label_cell(table[i, j], trials), ha="center", va="center", fontsize=8,
                      color="white" if is_dark else "#333333")  # fmt: skip
    best = search.best
    if best is not None and best.number in column and best.number in row:
        corner = (column[best.number] - 0.5, row[best.number] - 0.5)
        style: dict[str, Any] = {"fill": False, "edgecolor": COLOURS[1], "linewidth": 2.2, "clip_on": False}
        axes.add_patch(Rectangle(corner, 1, 1, label="contains the best trial", **style))
        add_legend(axes.figure)
    set_level_ticks(axes.xaxis, columns)
    set_level_ticks(axes.yaxis, rows)
    return picture


def _label_cell(mean: float, trials: Sequence[TrialRecord]) -> str:
    """Return the label of a cell: the mean, the number of its trials, and how many have no value."""
    states = Counter(t.state for t in trials)
    count = sum(t.value is not None for t in trials)
    lines = [format_metric(mean)] if math.isfinite(mean) else []
    lines += [f"of {count}"] if count > 1 else []
    return "\n".join(lines + [f"{states[state]} {state}" for state in MARKS if states[state]])

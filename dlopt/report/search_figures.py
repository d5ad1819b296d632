"""Figures of a search: the best so far, the effect of each hyperparameter, and a map of two of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from dlopt.analysis.importance import Level, group_by_level
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import SearchRecord, TrialRecord
from dlopt.formatting import format_metric
from dlopt.report.figures import COLOURS, MAX_INCHES, STYLE, add_heading, add_legend, compute_limits

MAX_AXES = 12
"""Number of hyperparameters in the figure of effects: the most important ones."""
COLUMNS = 3
MAX_LINES = 6
"""Largest number of values of a second hyperparameter for which the first has one line per value."""
MIN_BOX = 5
"""Smallest number of trials with a box."""
MAX_TICKS = 10
"""Largest grid with a tick for each value."""
MAX_LABELED_CELLS = 15
"""Largest number of values on a side of a map with labels in its cells."""
MARKS = {"diverged": ("x", COLOURS[1]), "failed": ("+", COLOURS[7]), "pruned": ("|", COLOURS[6])}
"""Marker and colour of trials without a value, which are drawn at the worse edge, one line for each state."""
LANE = 0.045
"""Height of such a line, as a fraction of the axis."""
TICK_STEPS = (1, 2, 5, 10)
"""First digits of the ticks of an axis of whole numbers."""

Places = Sequence[tuple[float, TrialRecord]]
"""Trials with their horizontal positions."""


def plot_search(
    search: SearchRecord, heading: str, order: Sequence[str] = (), heat: Sequence[str] = ()
) -> dict[str, Figure]:
    """Return all figures of a search by name. The history is left out if the order of the trials means nothing.

    order   keys of hyperparameters, most important first
    heat    the two keys of the map; by default the first two of the order, or of the search
    """

    def rank(keys: Sequence[str]) -> list[SearchAxis]:
        return sorted(search.axes, key=lambda a: keys.index(a.key) if a.key in keys else len(keys))

    figures = {} if search.axes and search.sampler in ("", "grid") else {"history": plot_history(search, heading)}
    if search.axes:
        figures["effects"] = plot_effects(search, rank(order)[:MAX_AXES], heading)
    if len(search.axes) > 1:
        across, up, *_ = rank(heat or order)
        figures["map"] = plot_heat_map(search, across, up, heading)
    return figures


def plot_history(search: SearchRecord, heading: str) -> Figure:
    """Plot the value of each trial and the best so far; mark trials without a value at the worse edge."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        axes: Any = figure.add_subplot()
        edge = _set_value_axis(axes, search)
        places = [(float(t.number), t) for t in search.trials]
        _plot_trials(axes, search, places, size=18, edge=edge)
        values = [t.value for t in search.trials if t.value is not None]
        best = list(accumulate(values, max if search.higher_is_better else min))
        if best:
            x = [*(t.number for t in search.trials if t.value is not None), search.trials[-1].number]
            axes.step(x, [*best, best[-1]], where="post", color=COLOURS[2], linewidth=1.8, label="best so far")
        _plot_marks(axes, search, places, edge)
        numbers = [t.number for t in search.trials] or [0]
        margin = max(0.5, 0.02 * (numbers[-1] - numbers[0]))
        axes.set_xlim(numbers[0] - margin, numbers[-1] + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=TICK_STEPS, min_n_ticks=1))
        axes.set_xlabel("trial")
        add_legend(figure)
        return add_heading(figure, heading)


def plot_effects(search: SearchRecord, shown: Sequence[SearchAxis], heading: str) -> Figure:
    """Plot the objective against each hyperparameter: every trial, and the mean with its standard deviation.

    A choice has a box from quartile to quartile, with the median, for each value with at least MIN_BOX trials. If two
    hyperparameters were searched and the other has few values, a numeric one has one line for each of them.
    """
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2 * columns, 6.0), 3.4 * rows + 0.5), layout="constrained")
        for i, axis in enumerate(shown):
            axes: Any = figure.add_subplot(rows, columns, i + 1)
            edge = _set_value_axis(axes, search, has_label=i % columns == 0)
            other = next((a for a in search.axes if a.key != axis.key), None) if len(search.axes) == 2 else None
            if axis.is_numeric:
                _plot_numeric(axes, search, axis, other, edge)
            else:
                _plot_choice(axes, search, axis, edge)
            axes.set_xlabel(axis.key)
        add_legend(figure)
        return add_heading(figure, heading)


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
        label = f"{'' if is_scatter else 'mean '}{_label_objective(search)}"
        figure.colorbar(picture, ax=axes, label=label, shrink=0.9)
        return add_heading(figure, heading)


# ------------------------------------------------------------------------------------------------ values


def _label_objective(search: SearchRecord) -> str:
    return f"{search.objective} ({'more is better ↑' if search.higher_is_better else 'less is better ↓'})"


def _set_value_axis(axes: Any, search: SearchRecord, *, has_label: bool = True) -> float:
    """Set up the vertical axis of the objective. Return the end of its values: the marks are beyond it."""
    pairs = [(t.value, t.sd) for t in search.trials if t.value is not None]
    values = [value for value, _ in pairs]
    low, high = compute_limits(values, search.higher_is_better)
    ends = [v + side * sd for v, sd in pairs if sd for side in (-1, 1) if low <= v <= high]
    room = 0.02 * (max([high, *ends]) - min([low, *ends]))  # shows that error bars end inside the frame
    low, high = min([low, *(end - room for end in ends)]), max([high, *(end + room for end in ends)])
    has_marks = _select_marks(search) or any(not low <= v <= high for v in values)
    strip = (1 + len(_select_marks(search))) * LANE * (high - low) if has_marks else 0.0
    low, high = (low - strip, high) if search.higher_is_better else (low, high + strip)
    axes.set_ylim(low, high)
    if has_label:
        axes.set_ylabel(_label_objective(search))
    if not values:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no trial has a value", ha="center", va="center", transform=axes.transAxes, color="#666666")
    return low + strip if search.higher_is_better else high - strip


def _plot_trials(axes: Any, search: SearchRecord, places: Places, *, size: float, edge: float) -> None:
    """Plot a point for each trial with a value, and a triangle at the edge for a value beyond it."""
    higher = search.higher_is_better
    points = [(x, t.value, t.sd) for x, t in places if t.value is not None]
    inside = [p for p in points if (p[1] >= edge if higher else p[1] <= edge)]
    outside = [p[0] for p in points if (p[1] < edge if higher else p[1] > edge)]
    style = {"color": COLOURS[0], "linewidths": 0}
    if inside:
        x, y, _ = zip(*inside, strict=True)
        axes.scatter(x, y, s=size, alpha=0.55, label="a trial", zorder=2, **style)
    repeated = [p for p in inside if p[2] is not None]
    if repeated:
        axes.errorbar(*zip(*repeated, strict=True), fmt="none", ecolor=COLOURS[0], alpha=0.4, linewidth=1.0, zorder=1)
    if outside:
        marker = "v" if higher else "^"
        axes.scatter(outside, [edge] * len(outside), s=size * 1.4, marker=marker, label="worse than shown", **style)


def _select_marks(search: SearchRecord) -> dict[str, tuple[str, str]]:
    """Return the marks of the states that occur in a search."""
    return {state: mark for state, mark in MARKS.items() if any(t.state == state for t in search.trials)}


def _plot_marks(axes: Any, search: SearchRecord, places: Places, edge: float) -> None:
    """Mark the trials without a value, in a lane for each state that occurs."""
    worse = min(axes.get_ylim(), key=lambda end: abs(edge - end))
    for lane, (state, (marker, colour)) in enumerate((marks := _select_marks(search)).items(), 1):
        x = [x for x, t in places if t.state == state]
        y = edge + (worse - edge) * lane / (1 + len(marks))
        if x:
            axes.scatter(x, [y] * len(x), s=24, marker=marker, color=colour, alpha=0.7, linewidths=1.2, label=state)


# ------------------------------------------------------------------------------------------------ effects


def _plot_numeric(axes: Any, search: SearchRecord, axis: SearchAxis, other: SearchAxis | None, edge: float) -> None:
    """Plot the panel of a numeric hyperparameter."""
    _set_scale(axes.xaxis, axis)
    places = [(float(t.point[axis.key]), t) for t in search.trials if axis.key in t.point]
    levels = group_by_level(axis, search.trials)
    lines = group_by_level(other, search.trials) if other is not None else []
    if other is not None and not other.is_binned and 1 < len(lines) <= MAX_LINES:
        for line, colour in zip(lines, COLOURS, strict=False):
            _plot_means(axes, group_by_level(axis, line.trials), f"{other.key}={line.name}", colour, has_bars=True)
    elif not axis.is_binned and all(level.n_ended <= 1 for level in levels):
        label = "mean ± sd over repeats" if search.repeats > 1 else "a trial"
        _plot_means(axes, levels, label, COLOURS[0], has_bars=True)
    else:
        _plot_trials(axes, search, places, size=14, edge=edge)
        _plot_means(axes, levels, "mean ± sd", COLOURS[1], has_bars=False)
    _plot_marks(axes, search, places, edge)


def _plot_means(axes: Any, levels: Sequence[Level], label: str, colour: str, *, has_bars: bool) -> None:
    points = [(level.position, level.mean, level.sd) for level in levels if level.mean is not None]
    if not points:
        return
    x, y, sd = np.array(points, float).T  # None becomes NaN
    style = {"color": colour, "markersize": 4, "linewidth": 1.6, "label": label}
    if has_bars:
        axes.errorbar(x, y, sd, fmt="o-", capsize=2.5, **style)
        return
    axes.plot(x, y, "o-", zorder=3, **style)
    axes.fill_between(x, y - sd, y + sd, color=colour, alpha=0.15, linewidth=0)


def _plot_choice(axes: Any, search: SearchRecord, axis: SearchAxis, edge: float) -> None:
    """Plot the panel of a choice: a box for each value, and its trials next to each other."""
    levels = group_by_level(axis, search.trials)
    boxes = [level for level in levels if len(level.values) >= MIN_BOX]
    if boxes:
        grey = {"color": "#666666"}
        axes.boxplot(
            [level.values for level in boxes], positions=[level.position for level in boxes], widths=0.5,
            showfliers=False, manage_ticks=False, medianprops={"color": COLOURS[1], "linewidth": 1.8},
            boxprops=grey, whiskerprops=grey, capprops=grey,
        )  # fmt: skip
    # Steps of the golden ratio spread the points over 0.32 and keep neighbours apart.
    places = [(v.position + 0.32 * ((i * 0.618034) % 1.0 - 0.5), t) for v in levels for i, t in enumerate(v.trials)]
    _plot_trials(axes, search, places, size=14, edge=edge)
    means = [(level.position, level.mean) for level in levels if level.mean is not None]
    if means:
        axes.plot(*zip(*means, strict=True), "D", color=COLOURS[1], markersize=5, label="mean", zorder=3)
    _plot_marks(axes, search, places, edge)
    _set_level_ticks(axes.xaxis, levels)
    axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)


def _set_scale(side: Any, axis: SearchAxis) -> None:
    """Set the ends, the scale and the ticks of a numeric hyperparameter."""
    assert axis.low is not None and axis.high is not None
    low, high = axis.to_scale(axis.low), axis.to_scale(axis.high)
    room = 0.05 * (high - low) or 0.5
    low, high = low - room, high + room
    if axis.log:
        side._set_axes_scale("log")
        low, high = 10.0**low, 10.0**high
        side.set_major_formatter(lambda value, _: f"{value:g}")
        side.set_minor_formatter(NullFormatter())
    side.axes.set_xlim(low, high) if side.axis_name == "x" else side.axes.set_ylim(low, high)
    values = [float(v) for v in axis.values]
    if values and len(values) <= MAX_TICKS:
        side.set_major_locator(FixedLocator(values))
        side.set_minor_locator(NullLocator())
        names = [axis.format_value(v) for v in values]
        side.set_ticklabels(names, rotation=_choose_rotation(side, names))
    elif axis.whole and not axis.log:
        side.set_major_locator(MaxNLocator(integer=True, steps=TICK_STEPS, min_n_ticks=1))


def _choose_rotation(side: Any, names: Sequence[str]) -> float:
    return 30 if side.axis_name == "x" and sum(map(len, names)) > 32 else 0


def _set_level_ticks(side: Any, levels: Sequence[Level]) -> None:
    """Set a named tick for each of the levels at 0, 1, ..., or for about 40 of them."""
    ticks = range(0, len(levels), max(1, math.ceil(len(levels) / 40)))
    names = [n if len(n := levels[i].name) <= 24 else f"{n[:12]}…{n[-11:]}" for i in ticks]
    side.set_ticks(ticks, names, rotation=_choose_rotation(side, names))


# ------------------------------------------------------------------------------------------------ maps


def _make_shades(search: SearchRecord, values: Sequence[float]) -> dict[str, Any]:
    norm = Normalize(*compute_limits(values, search.higher_is_better))
    return {"cmap": "Blues" if search.higher_is_better else "Blues_r", "norm": norm}


def _plot_scatter(axes: Any, search: SearchRecord, across: SearchAxis, up: SearchAxis) -> Any:
    trials = [t for t in search.trials if across.key in t.point and up.key in t.point]
    _set_scale(axes.xaxis, across)
    _set_scale(axes.yaxis, up)

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
    _set_level_ticks(axes.xaxis, columns)
    _set_level_ticks(axes.yaxis, rows)
    return picture


def _label_cell(mean: float, trials: Sequence[TrialRecord]) -> str:
    """Return the label of a cell: the mean, the number of its trials, and how many have no value."""
    states = Counter(t.state for t in trials)
    count = sum(t.value is not None for t in trials)
    lines = [format_metric(mean)] if math.isfinite(mean) else []
    lines += [f"of {count}"] if count > 1 else []
    return "\n".join(lines + [f"{states[state]} {state}" for state in MARKS if states[state]])

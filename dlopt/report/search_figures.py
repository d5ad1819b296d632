"""Figures of a search: the best so far, and the effect of each hyperparameter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlopt.analysis.importance import Level, group_by_level
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import SearchRecord, TrialRecord
from dlopt.report.figures import COLOURS, STYLE, add_heading, add_legend, compute_limits
from dlopt.report.search_map import plot_heat_map
from dlopt.report.search_scales import MARKS, TICK_STEPS, label_objective, set_level_ticks, set_scale

MAX_AXES = 12
"""Number of hyperparameters in the figure of effects: the most important ones."""
COLUMNS = 3
MAX_LINES = 6
"""Largest number of combinations of the other hyperparameters for which a numeric one has a line for each."""
MIN_BOX = 5
"""Smallest number of trials with a box."""
LANE = 0.045
"""Height of the line of marks of a state, as a fraction of the axis."""

Places = Sequence[tuple[float, TrialRecord]]
"""Trials with their horizontal positions."""


def plot_search(
    search: SearchRecord, heading: str, order: Sequence[str] = (), heat: Sequence[str] = ()
) -> dict[str, Figure]:
    """Return all figures of a search by name. The history is left out if the order of the trials means nothing.

    order   keys of hyperparameters, most important first
    heat    the two keys of the map; by default the first two of the order, or of those that most trials have
    """
    n_lacking = {axis.key: sum(axis.key not in t.point for t in search.trials) for axis in search.axes}

    def rank(keys: Sequence[str]) -> list[SearchAxis]:
        return sorted(search.axes, key=lambda a: (keys.index(a.key) if a.key in keys else len(keys), n_lacking[a.key]))

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

    A choice has a box from quartile to quartile, with the median, for each value with at least MIN_BOX trials. If the
    other hyperparameters have at most MAX_LINES combinations of values, a numeric one has a line for each of them.
    """
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2 * columns, 6.0), 3.4 * rows + 0.5), layout="constrained")
        for i, axis in enumerate(shown):
            axes: Any = figure.add_subplot(rows, columns, i + 1)
            edge = _set_value_axis(axes, search, has_label=i % columns == 0)
            if axis.is_numeric:
                _plot_numeric(axes, search, axis, edge)
            else:
                _plot_choice(axes, search, axis, edge)
            axes.set_xlabel(axis.key)
        add_legend(figure)
        return add_heading(figure, heading)


# ------------------------------------------------------------------------------------------------ values


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
        axes.set_ylabel(label_objective(search))
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


def _plot_numeric(axes: Any, search: SearchRecord, axis: SearchAxis, edge: float) -> None:
    """Plot the panel of a numeric hyperparameter."""
    set_scale(axes.xaxis, axis)
    places = [(float(t.point[axis.key]), t) for t in search.trials if axis.key in t.point]
    levels = group_by_level(axis, search.trials)
    lines = _split_into_lines(search, axis)
    if 1 < len(lines) <= MAX_LINES:
        for (label, trials), colour in zip(lines.items(), COLOURS, strict=False):
            _plot_means(axes, group_by_level(axis, trials), label, colour, has_bars=True)
    elif not axis.is_binned and all(level.n_ended <= 1 for level in levels):
        label = "mean ± sd over repeats" if search.repeats > 1 else "a trial"
        _plot_means(axes, levels, label, COLOURS[0], has_bars=True)
    else:
        _plot_trials(axes, search, places, size=14, edge=edge)
        _plot_means(axes, levels, "mean ± sd", COLOURS[1], has_bars=False)
    _plot_marks(axes, search, places, edge)


def _split_into_lines(search: SearchRecord, axis: SearchAxis) -> dict[str, Sequence[TrialRecord]]:
    """Return the trials with the same values of all other hyperparameters; {} if a trial or an axis has none.

    A binned axis has no values of which there are several trials.
    """
    others = [a for a in search.axes if a.key != axis.key]
    if any(a.is_binned or any(a.key not in t.point for t in search.trials) for a in others):
        return {}
    lines: dict[str, Sequence[TrialRecord]] = {"": search.trials}
    for other in others:
        lines = {
            f"{label}  {other.key}={level.name}".strip(): level.trials
            for label, trials in lines.items()
            for level in group_by_level(other, trials)
        }
    return lines


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
    set_level_ticks(axes.xaxis, levels)
    axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)

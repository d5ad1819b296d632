"""Pictures of a search: the best so far, the effect of each hyperparameter, and a map of two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from dlopt.analysis.importance import Level, group_by_level
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import SearchRecord, TrialRecord
from dlopt.formatting import format_metric
from dlopt.report.figures import COLOURS, MAX_INCHES, STYLE

MAX_AXES = 12
"""Hyperparameters that are drawn: those that matter most."""
COLUMNS = 3
MAX_LINES = 6
"""Values of a second hyperparameter up to which the first has a line for each."""
MAX_TICKS = 10
"""Values of a grid up to which each has its name below the axis."""
MAX_LABELED_CELLS = 15
"""Values on a side of a map up to which its cells are labelled."""
FENCE = 3.0
"""Quartile distances behind the worse quartile beyond which values are drawn at the edge."""
MARKS = {"diverged": ("x", COLOURS[1]), "failed": ("+", COLOURS[7]), "pruned": ("|", COLOURS[6])}
"""Of trials without a value, which are drawn at the worse edge, each state on a line of its own."""
LANE = 0.045
"""Height of such a line, as a share of the axis."""
TICK_STEPS = (1, 2, 5, 10)
"""First digits of the numbers below an axis of whole numbers."""
EMPTY_COLOUR = "#e4e4e4"
NO_VALUE_TEXT = "no trial has a value"


def plot_search(
    search: SearchRecord, heading: str, order: Sequence[str] = (), heat: Sequence[str] = ()
) -> dict[str, Figure]:
    """Every picture that there is of a search, by its name.

    order: the keys of hyperparameters, the most important first.
    heat: the two of the map; else the first two of the order, or of the search.
    """
    axes = sorted(search.axes, key=lambda a: order.index(a.key) if a.key in order else len(order))
    found = {"history": plot_history(search, heading)}
    if axes:
        found["effects"] = plot_effects(search, axes[:MAX_AXES], heading)
    if len(axes) > 1:
        first, second = (search.axis(key) for key in heat) if heat else axes[:2]
        found["map"] = plot_heat_map(search, first, second, heading)
    return found


def plot_history(search: SearchRecord, heading: str) -> Figure:
    """The value of each trial, and the best so far; those without a value are marked at the worse edge."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        axes: Any = figure.add_subplot()
        valued = [t for t in search.trials if t.value is not None]
        edge = _up(axes, search, valued)
        _dots(axes, search, [(float(t.number), t) for t in valued], "a trial", size=18, edge=edge)
        better = max if search.higher_is_better else min
        best = list(accumulate((t.value for t in valued if t.value is not None), better))
        if best:
            at = [*(t.number for t in valued), search.trials[-1].number]
            axes.step(at, [*best, best[-1]], where="post", color=COLOURS[2], linewidth=1.8, label="best so far")
        _marks(axes, [(float(t.number), t) for t in search.trials], edge)
        numbers = [t.number for t in search.trials] or [0]
        margin = max(0.5, 0.02 * (numbers[-1] - numbers[0]))
        axes.set_xlim(numbers[0] - margin, numbers[-1] + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=TICK_STEPS, min_n_ticks=1))
        axes.set_xlabel("trial")
        _legend(figure)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure


def plot_effects(search: SearchRecord, chosen: Sequence[SearchAxis], heading: str) -> Figure:
    """The objective against each hyperparameter: every trial, and the mean with its standard deviation.

    Values of a choice have a box from the first to the third quartile, with the median. Where two hyperparameters were
    searched and the other has few values, numbers have a line for each of those.
    """
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(4.2 * columns, 6.0), 3.4 * rows + 0.5), layout="constrained")
        valued = [t for t in search.trials if t.value is not None]
        for i, axis in enumerate(chosen):
            axes: Any = figure.add_subplot(rows, columns, i + 1)
            edge = _up(axes, search, valued, named=i % columns == 0)
            other = next((a for a in search.axes if a.key != axis.key), None) if len(search.axes) == 2 else None
            if axis.is_numeric:
                _numbers(axes, search, axis, other, edge)
            else:
                _choices(axes, search, axis, edge)
            axes.set_xlabel(axis.key)
        _legend(figure)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure


def plot_heat_map(search: SearchRecord, across: SearchAxis, up: SearchAxis, heading: str) -> Figure:
    """The objective over two hyperparameters, darker where it is better, the best with a frame.

    Two intervals, or fine grids: a point for each trial, a cross for one that diverged. Else cells with the mean of
    their trials and, where there are several, their number; an interval is cut into bins, and a cell without a value
    is grey.
    """
    points = across.is_binned and up.is_binned
    with mpl.rc_context(STYLE | {"axes.grid": points}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        axes: Any = figure.add_subplot()
        shades = "Blues" if search.higher_is_better else "Blues_r"
        drawn = _plot_scatter if points else _cells
        picture = drawn(axes, search, across, up, shades)
        axes.set_xlabel(across.key)
        axes.set_ylabel(up.key)
        if not points:
            width, height = (0.75 * n + 2.6 for n in (axes.get_xlim()[1], axes.get_ylim()[1]))
            figure.set_size_inches(min(max(width, 5.0), MAX_INCHES), min(max(height, 3.6), MAX_INCHES))
        figure.colorbar(picture, ax=axes, label=f"{'' if points else 'mean '}{_objective(search)}", shrink=0.9)
        figure.suptitle(heading, x=0.01, ha="left", fontsize=11)
        return figure


# ------------------------------------------------------------------------------------------------ values


def _objective(search: SearchRecord) -> str:
    return f"{search.objective} ({'more is better ↑' if search.higher_is_better else 'less is better ↓'})"


def compute_limits(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """From the best value to the worst, or to where the worse ones begin that would leave no room for the others."""
    if not values:
        return 0.0, 1.0
    lower, upper = (float(q) for q in np.quantile(values, (0.25, 0.75)))
    fence = FENCE * (upper - lower)
    low, high = min(values), max(values)
    low, high = (max(low, lower - fence), high) if higher else (low, min(high, upper + fence))
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - room, high + room


def _up(axes: Any, search: SearchRecord, valued: Sequence[TrialRecord], *, named: bool = True) -> float:
    """Set the vertical axis, that of the objective; returns where its values end: beyond lie the lines of marks."""
    values = [t.value for t in valued if t.value is not None]
    low, high = compute_limits(values, search.higher_is_better)
    ends = [
        v + side * t.sd for t, v in zip(valued, values, strict=True) if t.sd for side in (-1, 1) if low <= v <= high
    ]
    room = 0.02 * (max([high, *ends]) - min([low, *ends]))  # so that the ends of bars are seen to be ends
    low, high = min([low, *(end - room for end in ends)]), max([high, *(end + room for end in ends)])
    needed = any(t.state in MARKS for t in search.trials) or any(not low <= v <= high for v in values)
    strip = (1 + len(MARKS)) * LANE * (high - low) if needed else 0.0
    low, high = (low - strip, high) if search.higher_is_better else (low, high + strip)
    axes.set_ylim(low, high)
    if named:
        axes.set_ylabel(_objective(search))
    if not valued:
        axes.set_yticks([])
        axes.text(0.5, 0.5, NO_VALUE_TEXT, ha="center", va="center", transform=axes.transAxes, color="#666666")
    return low + strip if search.higher_is_better else high - strip


def _dots(
    axes: Any,
    search: SearchRecord,
    places: Sequence[tuple[float, TrialRecord]],
    label: str,
    *,
    size: float,
    edge: float,
) -> None:
    """A point for each trial with a value; a triangle at the edge for one that is worse than the axis reaches."""
    inside: list[tuple[float, TrialRecord]] = []
    beyond: list[tuple[float, TrialRecord]] = []
    for x, trial in places:
        if trial.value is not None:
            worse = trial.value < edge if search.higher_is_better else trial.value > edge
            (beyond if worse else inside).append((x, trial))
    if inside:
        axes.scatter(
            [x for x, _ in inside], [t.value for _, t in inside], s=size, color=COLOURS[0], alpha=0.55, linewidths=0,
            label=label, zorder=2,
        )  # fmt: skip
    spread = [(x, t.value, t.sd) for x, t in inside if t.sd is not None]
    if spread:
        at, y, sd = zip(*spread, strict=True)
        axes.errorbar(at, y, sd, fmt="none", ecolor=COLOURS[0], alpha=0.4, linewidth=1.0, zorder=1)
    if beyond:
        axes.scatter(
            [x for x, _ in beyond], [edge] * len(beyond), s=size * 1.4, marker="v" if search.higher_is_better else "^",
            color=COLOURS[0], linewidths=0, label="worse than shown",
        )  # fmt: skip


def _marks(axes: Any, places: Sequence[tuple[float, TrialRecord]], edge: float) -> None:
    low, high = axes.get_ylim()
    worse = low if abs(edge - low) < abs(edge - high) else high
    for lane, (state, (marker, colour)) in enumerate(MARKS.items(), 1):
        at = [x for x, t in places if t.state == state]
        y = edge + (worse - edge) * lane / (1 + len(MARKS))
        if at:
            axes.scatter(at, [y] * len(at), s=24, marker=marker, color=colour, alpha=0.7, linewidths=1.2, label=state)


def _legend(figure: Figure) -> None:
    """One for all panels, below them."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(4, len(found)))


# ------------------------------------------------------------------------------------------------ effects


def _numbers(axes: Any, search: SearchRecord, axis: SearchAxis, other: SearchAxis | None, edge: float) -> None:
    """A panel of a numeric hyperparameter."""
    _scale(axes.xaxis, axis)
    places = [(float(t.point[axis.key]), t) for t in search.trials if axis.key in t.point]
    lines = group_by_level(other, search.trials) if other is not None else []
    if other is not None and not other.is_binned and 1 < len(lines) <= MAX_LINES:
        for i, line in enumerate(lines):
            _line(axes, group_by_level(axis, line.trials), f"{other.key}={line.name}", COLOURS[i], bars=True)
    elif not axis.is_binned and all(level.n_ended <= 1 for level in group_by_level(axis, search.trials)):
        label = "mean ± sd over repeats" if search.repeats > 1 else "a trial"
        _line(axes, group_by_level(axis, search.trials), label, COLOURS[0], bars=True)
    else:
        _dots(axes, search, places, "a trial", size=14, edge=edge)
        _line(axes, group_by_level(axis, search.trials), "mean ± sd", COLOURS[1], bars=False)
    _marks(axes, places, edge)


def _line(axes: Any, found: Sequence[Level], label: str, colour: str, *, bars: bool) -> None:
    known = [(level.position, level.mean, level.sd) for level in found if level.mean is not None]
    if not known:
        return
    x, y = [at for at, _, _ in known], np.array([mean for _, mean, _ in known], float)
    sd = np.array([math.nan if s is None else s for _, _, s in known])
    if bars:
        axes.errorbar(x, y, sd, fmt="o-", color=colour, markersize=4, linewidth=1.6, capsize=2.5, label=label)
        return
    axes.plot(x, y, "o-", color=colour, markersize=4, linewidth=1.6, label=label, zorder=3)
    axes.fill_between(x, y - sd, y + sd, color=colour, alpha=0.15, linewidth=0)


def _choices(axes: Any, search: SearchRecord, axis: SearchAxis, edge: float) -> None:
    """A panel of a choice: a box for each value, and its trials beside each other."""
    found = group_by_level(axis, search.trials)
    boxes = [level for level in found if level.quartiles is not None]
    if boxes:
        axes.boxplot(
            [level.values for level in boxes], positions=[level.position for level in boxes], widths=0.5, showfliers=False,
            manage_ticks=False, medianprops={"color": COLOURS[1], "linewidth": 1.8},
            boxprops={"color": "#666666"}, whiskerprops={"color": "#666666"}, capprops={"color": "#666666"},
        )  # fmt: skip
    places = [(level.position + _beside(i), t) for level in found for i, t in enumerate(level.trials)]
    _dots(axes, search, places, "a trial", size=14, edge=edge)
    means = [(level.position, level.mean) for level in found if level.mean is not None]
    if means:
        axes.plot(*zip(*means, strict=True), "D", color=COLOURS[1], markersize=5, label="mean", zorder=3)
    _marks(axes, places, edge)
    _name_ticks(axes.xaxis, found)
    axes.set_xlim(-0.6, max(len(found), 1) - 0.4)


def _beside(i: int) -> float:
    """How far the i-th point stands beside the middle: within 0.16, and no two of neighbours near each other."""
    return 0.32 * ((i * 0.618034) % 1.0 - 0.5)


def _scale(side: Any, axis: SearchAxis) -> None:
    """Ends, scale and ticks of a numeric hyperparameter."""
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
        side.set_ticklabels(names, rotation=_rotation(side, names))
    elif axis.whole and not axis.log:
        side.set_major_locator(MaxNLocator(integer=True, steps=TICK_STEPS, min_n_ticks=1))


def _rotation(side: Any, names: Sequence[str]) -> float:
    return 30 if side.axis_name == "x" and sum(map(len, names)) > 32 else 0


def _name_ticks(side: Any, found: Sequence[Level]) -> None:
    """A tick for each level, which stand at 0, 1, ..., with its name; of very many only some."""
    every = max(1, math.ceil(len(found) / 40))
    shown = list(range(0, len(found), every))
    names = [shorten(found[i].name) for i in shown]
    side.set_ticks(shown, names, rotation=_rotation(side, names))


def shorten(name: str) -> str:
    """A name that fits below an axis."""
    return name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"


# ------------------------------------------------------------------------------------------------ maps


def _shades(search: SearchRecord, values: Sequence[float]) -> Normalize:
    return Normalize(*compute_limits(values, search.higher_is_better))


def _plot_scatter(axes: Any, search: SearchRecord, across: SearchAxis, up: SearchAxis, shades: str) -> Any:
    trials = [t for t in search.trials if across.key in t.point and up.key in t.point]
    _scale(axes.xaxis, across)
    _scale(axes.yaxis, up)
    valued = [t for t in trials if t.value is not None]

    def place(found: Sequence[TrialRecord]) -> tuple[list[Any], list[Any]]:
        return [t.point[across.key] for t in found], [t.point[up.key] for t in found]

    values = [t.value for t in valued if t.value is not None]
    picture = axes.scatter(
        *place(valued), c=values, s=36, cmap=shades, norm=_shades(search, values), edgecolors="#888888", linewidths=0.4
    )
    for state, (marker, colour) in MARKS.items():
        found = [t for t in trials if t.state == state]
        if found:
            axes.scatter(*place(found), s=26, marker=marker, color=colour, linewidths=1.2, label=state)
    if search.best in valued:
        best = place([search.best])
        axes.scatter(*best, s=130, facecolors="none", edgecolors=COLOURS[1], linewidths=1.8, label="best")
    _legend(axes.figure)
    return picture


def _cells(axes: Any, search: SearchRecord, across: SearchAxis, up: SearchAxis, shades: str) -> Any:
    columns, rows = group_by_level(across, search.trials), group_by_level(up, search.trials)
    column = {t.number: j for j, level in enumerate(columns) for t in level.trials}
    row = {t.number: i for i, level in enumerate(rows) for t in level.trials}
    inside: dict[tuple[int, int], list[TrialRecord]] = {}
    for t in search.trials:
        if t.number in column and t.number in row:
            inside.setdefault((row[t.number], column[t.number]), []).append(t)
    table = np.full((max(len(rows), 1), max(len(columns), 1)), math.nan)
    for (i, j), found in inside.items():
        mean = Level("", 0.0, tuple(found)).mean
        table[i, j] = math.nan if mean is None else mean
    axes.set_facecolor(EMPTY_COLOUR)
    finite = table[np.isfinite(table)]
    norm = _shades(search, finite.tolist())
    picture = axes.imshow(np.ma.masked_invalid(table), cmap=shades, norm=norm, origin="lower", aspect="auto")
    if max(table.shape) <= MAX_LABELED_CELLS:
        for (i, j), found in inside.items():
            strong = np.isfinite(table[i, j]) and (norm(table[i, j]) > 0.55) == search.higher_is_better
            axes.text(j, i, _label(table[i, j], found), ha="center", va="center", fontsize=8,
                      color="white" if strong else "#333333")  # fmt: skip
    best = search.best
    if best is not None and best.number in column and best.number in row:
        corner = (column[best.number] - 0.5, row[best.number] - 0.5)
        axes.add_patch(
            mpl.patches.Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.2, clip_on=False)
        )
    _name_ticks(axes.xaxis, columns)
    _name_ticks(axes.yaxis, rows)
    return picture


def _label(mean: float, found: Sequence[TrialRecord]) -> str:
    """What stands in a cell: the mean and the number of its trials, and how many diverged."""
    states: Mapping[str, int] = {s: sum(t.state == s for t in found) for s in MARKS}
    lines = [format_metric(mean)] if math.isfinite(mean) else []
    count = sum(t.value is not None for t in found)
    lines += [f"of {count}"] if count > 1 else []
    lines += [f"{n} {state}" for state, n in states.items() if n]
    return "\n".join(lines)

"""Scales, ticks, labels and marks that the figures of a search share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from dlopt.analysis.importance import Level
from dlopt.analysis.search_axis import SearchAxis
from dlopt.analysis.search_record import SearchRecord
from dlopt.report.figures import COLOURS

MAX_TICKS = 10
"""Largest grid with a tick for each value."""
MARKS = {"diverged": ("x", COLOURS[1]), "failed": ("+", COLOURS[7]), "pruned": ("|", COLOURS[6])}
"""Marker and colour of trials without a value, which are drawn at the worse edge, one line for each state."""
TICK_STEPS = (1, 2, 5, 10)
"""First digits of the ticks of an axis of whole numbers."""


def label_objective(search: SearchRecord) -> str:
    return f"{search.objective} ({'more is better ↑' if search.higher_is_better else 'less is better ↓'})"


def set_scale(side: Any, axis: SearchAxis) -> None:
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


def set_level_ticks(side: Any, levels: Sequence[Level]) -> None:
    """Set a named tick for each of the levels at 0, 1, ..., or for about 40 of them."""
    ticks = range(0, len(levels), max(1, math.ceil(len(levels) / 40)))
    names = [n if len(n := levels[i].name) <= 24 else f"{n[:12]}…{n[-11:]}" for i in ticks]
    side.set_ticks(ticks, names, rotation=_choose_rotation(side, names))

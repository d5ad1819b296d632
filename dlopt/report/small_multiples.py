"""Small pictures of many functions beside each other, all on the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from dlopt.report.figures import COLOURS, STYLE

COLUMNS = 4


class LabeledLine(NamedTuple):
    """One function: where, its values there, and what it is called in the legend."""

    x: Sequence[float]
    y: Sequence[float]
    label: str


def plot_small_multiples(
    lines: Mapping[str, Sequence[LabeledLine]], across: str, limits: tuple[float, float], up: str = ""
) -> Figure:
    """A picture for each name; across and up are what the axes show, limits those of the vertical one."""
    rows = -(-len(lines) // COLUMNS)
    with mpl.rc_context(STYLE | {"font.size": 9.0}):
        figure = Figure(figsize=(2.6 * COLUMNS, 1.9 * rows + 0.5), layout="constrained")
        all_axes = list(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (name, curves) in zip(all_axes, lines.items(), strict=False):
            for line, colour, style in zip(curves, COLOURS, ("-", "--"), strict=False):
                axes.plot(line.x, line.y, style, color=colour, label=line.label, linewidth=1.6)
            axes.set_title(name)
            axes.set_ylim(*limits)
        for axes in all_axes[len(lines) :]:
            axes.remove()
        for axes in all_axes[max(len(lines) - COLUMNS, 0) : len(lines)]:
            axes.tick_params(labelbottom=True)  # those above a place that is empty too
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        figure.supxlabel(across, fontsize=9)
        figure.supylabel(up, fontsize=9)
        return figure

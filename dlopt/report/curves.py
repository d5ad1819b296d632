"""Curves from the rows of runs, for figures, and drawn with characters for a terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from dlopt.analysis.run_table import RunGroup
from dlopt.formatting import format_override, metric_label
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row

METRICS = ("loss", "accuracy", "r2")
SIDE_BY_SIDE = 96
"""Smallest width for two panels side by side."""
COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


@dataclass
class Curve:
    """A line y over epochs x; spread: the standard deviation over repeats, if there are any."""

    label: str
    x: list[float]
    y: list[float]
    spread: list[float] | None = None
    colour: int = 0
    is_dashed: bool = False


@dataclass
class Panel:
    """The curves of one metric."""

    title: str
    metric: str
    curves: list[Curve] = field(default_factory=list)


def make_run_panels(rows: Sequence[Row]) -> list[Panel]:
    """Return a panel for loss and one for accuracy or R^2 of one run: training, validation, and averaged weights."""
    panels = []
    for metric in METRICS:
        curves = []
        splits = {"train": "training", "val": "validation", "average/val": "averaged weights"}
        for i, (split, label) in enumerate(splits.items()):
            points = _find_points(rows, f"{split}/{metric}")
            if points:
                x, y = map(list, zip(*points, strict=True))
                curves.append(Curve(label, x, y, colour=i, is_dashed=split == "train"))
        if curves:
            panels.append(Panel(metric_label(metric), metric, curves))
    return panels


def make_group_panels(groups: Sequence[RunGroup]) -> list[Panel]:
    """Return panels with the mean of each metric over each group: of validation if any run has it, else of training."""
    rows = [[RunDirectory(r.path).rows() for r in group.runs] for group in groups]
    panels = []
    for metric in METRICS:
        has_validation = any(_find_points(run, f"val/{metric}") for repeats in rows for run in repeats)
        split, title = ("val", "validation") if has_validation else ("train", "training")
        curves = []
        for i, (group, repeats) in enumerate(zip(groups, rows, strict=True)):
            curve = compute_mean_curve(f"{split}/{metric}", repeats)
            if curve is not None:
                curve.label, curve.colour = format_label(group.settings), i
                curves.append(curve)
        if curves:
            panels.append(Panel(f"{title} {metric_label(metric)}", f"{split}/{metric}", curves))
    return panels


def compute_mean_curve(metric: str, repeats: Sequence[Sequence[Row]]) -> Curve | None:
    """Return mean and standard deviation at each epoch, over the repeats with a finite value there, or None."""
    values: dict[float, list[float]] = {}
    for rows in repeats:
        for x, y in _find_points(rows, metric):
            values.setdefault(x, []).append(y)
    if not values:
        return None
    xs = sorted(values)
    spread = [statistics.stdev(v) if len(v := values[x]) > 1 else 0.0 for x in xs] if len(repeats) > 1 else None
    return Curve("", xs, [statistics.fmean(values[x]) for x in xs], spread)


def format_label(settings: Mapping[str, Any]) -> str:
    """Return the label of a line: options without, other settings with their keys."""
    return "  ".join(str(v) if "." not in k and isinstance(v, str) else f"{k}={format_override(v)}"
                     for k, v in settings.items() if v is not None) or "all runs"  # fmt: skip


def _find_points(rows: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    pairs = ((row.get("epoch"), row.get(metric)) for row in rows)
    return [(x, y) for x, y in pairs if _is_finite(x) and _is_finite(y)]


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def render(panels: Sequence[Panel], width: int, height: int = 15, *, coloured: bool = True) -> str:
    """Return the first two panels as text of at most `width` columns."""
    import plotext

    panels = [p for p in panels if p.curves][:2]
    per_row = len(panels) if width >= SIDE_BY_SIDE else 1
    width = min(width, 70 * per_row)
    plotext.main()  # an earlier plot may have left a panel active, and only that one would be cleared
    plotext.clear_figure()
    plotext.limit_size(False, False)
    rows = -(-len(panels) // per_row)
    plotext.subplots(rows, per_row)
    plotext.plotsize(width, height * rows)
    for i, panel in enumerate(panels):
        plotext.subplot(i // per_row + 1, i % per_row + 1)
        plotext.theme("clear")
        for curve in panel.curves:
            colour = COLOURS[curve.colour % len(COLOURS)]
            marker = "dot" if curve.is_dashed else "braille"  # distinct without colours too
            plotext.plot(curve.x, curve.y, marker=marker, label=curve.label, color=colour)
        plotext.xticks(_choose_ticks(max(x for curve in panel.curves for x in curve.x)))
        plotext.title(panel.title)
        plotext.xlabel("epoch")
    lines = [line.rstrip() for line in plotext.build().splitlines()]
    return "\n".join(lines if coloured else map(plotext.uncolorize, lines))


def _choose_ticks(end: float) -> list[float]:
    """Return about five round numbers from 0 to the end."""
    step = 10.0 ** math.floor(math.log10(max(end, 1e-9) / 5))
    step *= next(m for m in (1, 2, 5, 10) if end / (m * step) <= 6)
    return [i * step if step < 1 else int(i * step) for i in range(int(end / step) + 1)]

"""Curves from the rows of runs, for figures, and drawn with characters for a terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from dlopt.analysis.run_table import RunGroup
from dlopt.errors import did_you_mean
from dlopt.formatting import format_override, metric_label
from dlopt.metrics.names import RECENT
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.tensorboard import list_pairs

METRICS = ("loss", "accuracy", "r2")
SIDE_BY_SIDE = 96
"""Smallest width for two panels side by side."""
SPLITS = {"train": "training", "val": "validation", "average/val": "averaged validation",
          f"{RECENT}train": "recent training"}  # fmt: skip
N_COLOURS, N_DASHES = 8, 4
"""Number of colours and dashes that tell the lines of a figure apart."""
MIN_SPAN = 0.02
"""Smallest height of a vertical axis, as a fraction of its values: smaller changes are not magnified."""
WIDE = 100
"""Ratio of the largest to the smallest value above which two diagnostics are drawn on a logarithmic axis."""
COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


@dataclass
class Curve:
    """A line y over epochs x.

    spread   the standard deviation over repeats, if there are any
    count    number of runs behind a mean
    dash     0 for a solid line, up to N_DASHES - 1 for others
    is_thin  whether it is drawn as a thin line, below the others
    """

    label: str
    x: list[float]
    y: list[float]
    spread: list[float] | None = None
    colour: int = 0
    dash: int = 0
    count: int = 1
    is_thin: bool = False


@dataclass
class Panel:
    """The curves of one metric.

    may_be_log   whether the axis is logarithmic if the values are positive and differ by more than WIDE
    """

    title: str
    metric: str
    curves: list[Curve] = field(default_factory=list)
    may_be_log: bool = False

    @property
    def is_log(self) -> bool:
        """Return whether the vertical axis is logarithmic."""
        values = [y for curve in self.curves for y in curve.y]
        return self.may_be_log and min(values) > 0 and max(values) > WIDE * min(values)


def make_run_panels(rows: Sequence[Row], names: Sequence[str] = METRICS) -> list[Panel]:
    """Return a panel for each of these names for which one run has a curve.

    loss          a metric: training, validation, averaged weights, and training between evaluations as a thin line
    update/norm   the values of one name
    update/       one curve for each name below it, such as one for each layer
    """
    panels = []
    for name in names:
        splits = {"train": "training", "val": "validation", "average/val": "averaged weights"}
        curves = [
            Curve(label, *points, colour=i, dash=int(split == "train"))
            for i, (split, label) in enumerate(splits.items())
            if (points := _find_curve(rows, f"{split}/{name}"))
        ]
        if recent := _find_curve(rows, f"{RECENT}train/{name}"):
            curves.append(Curve("training, recent steps", *recent, is_thin=True))
        if not curves:
            recorded = dict.fromkeys(key for row in rows for key in row)
            keys = [key for key in recorded if key == name or (name[-1:] == "/" and key.startswith(name))]
            found = {key: points for key in keys if (points := _find_curve(rows, key))}
            curves = [Curve(key.removeprefix(name) or key, *found[key], colour=i) for i, key in enumerate(found)]
        if curves:
            panels.append(Panel(metric_label(name.rstrip("/")), name, curves))
    return panels


def make_diagnostic_panels(rows: Sequence[Row]) -> list[Panel]:
    """Return a panel for each pair of diagnostics that belongs together, such as sharpness and stability limit."""
    recorded = {key for row in rows for key in row}
    panels = []
    for title, pair in list_pairs(recorded).items():
        found = {key: points for key in pair if (points := _find_curve(rows, key))}
        curves = [Curve(key, *points, colour=i) for i, (key, points) in enumerate(found.items())]
        if curves:
            panels.append(Panel(title, title, curves, may_be_log=True))
    return panels


def select_panels(rows: Sequence[Row], names: Sequence[str] = ()) -> list[Panel]:
    """Return the panels of a run's picture: of these names, or of loss, accuracy and the pairs of diagnostics.

    Raises ValueError for a name without a curve.
    """
    if not names:
        return make_run_panels(rows) + make_diagnostic_panels(rows)
    panels = make_run_panels(rows, names)
    shown = {panel.metric for panel in panels}
    for name in names:
        if name not in shown:
            known = sorted({*list_diagnostics(rows), *(key for row in rows for key in row)} - {"step", "epoch"})
            raise ValueError(f"{name}: this run has no such curve{did_you_mean(name, known)}")
    return panels


def list_diagnostics(rows: Sequence[Row]) -> list[str]:
    """Return the names for `make_run_panels` of what diagnostics have recorded; layers are combined."""
    known = ("train", "val", "average", "recent", "time")
    keys = {k for row in rows for k in row if k.partition("/")[0] not in known}
    parts = [key.split("/") for key in sorted(keys)]
    return list(dict.fromkeys("/".join(p[:2]) + "/" * (len(p) > 2) for p in parts if len(p) > 1))


def make_group_panels(groups: Sequence[RunGroup], metrics: Sequence[str] = ()) -> list[Panel]:
    """Return panels with the mean of each metric over each group.

    metrics: names in rows, such as val/loss. By default loss, and accuracy or R^2, of validation if any run has it, or
    else of training.
    """
    rows = [[RunDirectory(r.path).rows() for r in group.runs] for group in groups]
    if not metrics:
        names = {name for repeats in rows for run in repeats for row in run for name in row}
        metrics = [f"{'val' if f'val/{metric}' in names else 'train'}/{metric}" for metric in METRICS]
    styles = choose_styles([group.settings for group in groups])
    panels = []
    for metric in metrics:
        curves = []
        for group, repeats, (colour, dash) in zip(groups, rows, styles, strict=True):
            curve = compute_mean_curve(metric, repeats)
            if curve is not None:
                curve.label, curve.colour, curve.dash = format_label(group.settings), colour, dash
                curves.append(curve)
        if curves:
            split, _, name = metric.rpartition("/")
            title = f"{SPLITS[split]} {metric_label(name)}" if split in SPLITS else metric
            panels.append(Panel(title, metric, curves))
    return panels


def choose_styles(settings: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return colour and dash of each line.

    If two settings vary, the first one has the colours and the second one the dashes, or the reverse if the second one
    has too many values for dashes. Otherwise, and if both have too many, each line has a colour of its own.
    """
    keys = list(dict.fromkeys(key for s in settings for key in s))
    columns = [[format_override(s.get(key)) for s in settings] for key in keys]
    indices = [[list(dict.fromkeys(column)).index(text) for text in column] for column in columns]
    if len(keys) == 2:
        colours, dashes = indices if max(indices[1]) < N_DASHES else reversed(indices)
        if max(colours) < N_COLOURS and max(dashes) < N_DASHES:
            return list(zip(colours, dashes, strict=True))
    return [(i % N_COLOURS, i // N_COLOURS % N_DASHES) for i in range(len(settings))]


def describe_counts(panels: Sequence[Panel]) -> str:
    """Return `n = 5` if every mean is over five runs. Otherwise add the number to the label of each line."""
    curves = [curve for panel in panels for curve in panel.curves]
    counts = {curve.count for curve in curves}
    if len(counts) == 1:
        return f"n = {counts.pop()}"
    for curve in curves:
        curve.label += f" (n = {curve.count})"
    return ""


def compute_mean_curve(metric: str, repeats: Sequence[Sequence[Row]]) -> Curve | None:
    """Return mean and standard deviation at each epoch, over the repeats with a finite value there, or None."""
    values: dict[float, list[float]] = {}
    found = [points for rows in repeats if (points := _find_points(rows, metric))]
    for points in found:
        for x, y in points:
            values.setdefault(x, []).append(y)
    if not values:
        return None
    xs = sorted(values)
    spread = [statistics.stdev(v) if len(v := values[x]) > 1 else 0.0 for x in xs] if len(repeats) > 1 else None
    return Curve("", xs, [statistics.fmean(values[x]) for x in xs], spread, count=len(found))


def format_label(settings: Mapping[str, Any]) -> str:
    """Return the label of a line: options without, other settings with their keys."""
    return "  ".join(str(v) if "." not in k and isinstance(v, str) else f"{k}={format_override(v)}"
                     for k, v in settings.items() if v is not None) or "all runs"  # fmt: skip


def _find_curve(rows: Sequence[Row], metric: str) -> tuple[list[float], list[float]] | None:
    points = _find_points(rows, metric)
    return ([x for x, _ in points], [y for _, y in points]) if points else None


def _find_points(rows: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    pairs = ((row.get("epoch"), row.get(metric)) for row in rows)
    return [(x, y) for x, y in pairs if _is_finite(x) and _is_finite(y)]


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def widen_limits(low: float, high: float) -> tuple[float, float]:
    """Return limits with the same middle whose distance is at least MIN_SPAN of the larger one."""
    missing = MIN_SPAN * max(abs(low), abs(high)) - (high - low)
    return (low - missing / 2, high + missing / 2) if missing > 0 else (low, high)


def render(panels: Sequence[Panel], width: int, height: int = 15, *, coloured: bool = True) -> str:
    """Return the panels as text of at most `width` columns, two in a row if there is room."""
    import plotext

    panels = [p for p in panels if p.curves]
    per_row = min(len(panels), 2) if width >= SIDE_BY_SIDE else 1
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
        for curve in sorted(panel.curves, key=lambda curve: not curve.is_thin):
            colour = COLOURS[curve.colour % len(COLOURS)]
            marker = "·" if curve.is_thin else "dot" if curve.dash else "braille"  # distinct without colours too
            plotext.plot(curve.x, curve.y, marker=marker, label=curve.label, color=colour)
        plotext.xticks(_choose_ticks(max(x for curve in panel.curves for x in curve.x)))
        values = [y for curve in panel.curves for y in curve.y]
        limits = min(values), max(values)
        if widen_limits(*limits) != limits:
            plotext.ylim(*widen_limits(*limits))
        plotext.title(panel.title)
        plotext.xlabel("epoch")
    lines = [line.rstrip() for line in plotext.build().splitlines()]
    return "\n".join(lines if coloured else map(plotext.uncolorize, lines))


def _choose_ticks(end: float) -> list[float]:
    """Return about five round numbers from 0 to the end."""
    step = 10.0 ** math.floor(math.log10(max(end, 1e-9) / 5))
    step *= next(m for m in (1, 2, 5, 10) if end / (m * step) <= 6)
    return [i * step if step < 1 else int(i * step) for i in range(int(end / step) + 1)]

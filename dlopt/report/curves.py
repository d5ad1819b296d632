"""Curves from the rows of runs, to be drawn in a terminal or a figure."""

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

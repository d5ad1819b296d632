"""Curves from the rows of runs: what is drawn, in a terminal or a picture, before anything draws it."""

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
    """A line: y over epochs. spread is the standard deviation over repetitions, where there are some."""

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
    """A panel for loss and one for accuracy (or R^2) of one run, each with training and validation.

    And with validation at the averaged weights, where there are any.
    """
    panels = []
    for metric in METRICS:
        curves = []
        splits = {"train": "training", "val": "validation", "average/val": "averaged weights"}
        for i, (split, label) in enumerate(splits.items()):
            points = _points(rows, f"{split}/{metric}")
            if points:
                curves.append(Curve(label, *_columns(points), colour=i, is_dashed=split == "train"))
        if curves:
            panels.append(Panel(metric_label(metric), metric, curves))
    return panels


def make_group_panels(groups: Sequence[RunGroup]) -> list[Panel]:
    """The same metrics of several runs or repetitions, by validation where there is one, else by training."""
    rows = [[RunDirectory(r.path).rows() for r in group.runs] for group in groups]
    panels = []
    for metric in METRICS:
        split = "val" if any(_points(one, f"val/{metric}") for each in rows for one in each) else "train"
        curves = []
        for i, (group, each) in enumerate(zip(groups, rows, strict=True)):
            found = compute_mean_curve(f"{split}/{metric}", each)
            if found is not None:
                found.label, found.colour = format_label(group.settings), i
                curves.append(found)
        if curves:
            said = {"val": "validation", "train": "training"}[split]
            panels.append(Panel(f"{said} {metric_label(metric)}", f"{split}/{metric}", curves))
    return panels


def compute_mean_curve(metric: str, repetitions: Sequence[Sequence[Row]]) -> Curve | None:
    """Mean and standard deviation over repetitions, at each epoch over those that have a finite value there."""
    at: dict[float, list[float]] = {}
    for rows in repetitions:
        for x, y in _points(rows, metric):
            at.setdefault(x, []).append(y)
    if not at:
        return None
    # One that was stopped early has fewer epochs: beyond its end the mean is over the others.
    xs = sorted(at)
    several = len(repetitions) > 1
    spread = [statistics.stdev(at[x]) if len(at[x]) > 1 else 0.0 for x in xs] if several else None
    return Curve("", xs, [statistics.fmean(at[x]) for x in xs], spread)


def format_label(settings: Mapping[str, Any]) -> str:
    """What tells a line from the others: options alone, keys with their names."""
    return "  ".join(str(v) if "." not in k and isinstance(v, str) else f"{k}={format_override(v)}"
                     for k, v in settings.items() if v is not None) or "all runs"  # fmt: skip


def _points(rows: Sequence[Row], metric: str) -> list[tuple[float, float]]:
    pairs = ((row.get("epoch"), row.get(metric)) for row in rows)
    return [(x, y) for x, y in pairs if _is_finite(x) and _is_finite(y)]


def _is_finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]

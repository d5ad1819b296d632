"""Lines about the parameter groups of a run: their weights, and their factors of learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_parameter_groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each parameter group, as Experiment.parameter_groups describes it."""
    width = max((len(group["name"]) for group in groups), default=0)
    counts = [f"{group['weights']:,}" for group in groups]
    widest = max(map(len, counts), default=0)
    return [
        f"{group['name']:<{width}}  {count:>{widest}} weights  {_describe(group)}"
        for group, count in zip(groups, counts, strict=True)
    ]


def _describe(group: Mapping[str, Any]) -> str:
    parts = []
    if group["frozen"]:
        parts.append("frozen" if group["frozen"] == group["weights"] else f"{group['frozen']:,} frozen")
    parts += [f"{key} x {_format_range(*group[key])}" for key in ("lr", "decay") if group[key]]
    return "  ".join(parts)


def _format_range(least: float, largest: float) -> str:
    return f"{least:.4g}" if least == largest else f"{least:.4g} to {largest:.4g}"

"""The table of a run's results, printed at its end and by `dlopt show`, and the lines about its parameter groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from dlopt.formatting import format_metric
from dlopt.metrics.names import AVERAGE


def make_summary_table(summary: dict[str, Any]) -> Table:
    """Return a table of loss and metrics by split, at the best, the last and the averaged weights.

    Weights without a finite loss have no row: the status of the run says at which step it diverged.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    splits = [s for s in ("train", "val", "test") if any(k.startswith(s + "/") for k in summary)]
    names = list(dict.fromkeys(k.partition("/")[2] for k in summary if k.partition("/")[0] in splits))
    table.add_column("")
    for split in splits:
        table.add_column({"val": "validation"}.get(split, split), justify="right")
    best, last = summary.get("best/step"), summary.get("last/step") or summary.get("step")
    selects_average = any(k.startswith(f"last/{AVERAGE}") for k in summary)
    kind = "best average" if selects_average else "best"
    title = f"{kind} (step {best})" if "val" in splits else f"last (step {last})"
    same = (best == last and not selects_average) or "val" not in splits
    average = f"last/{AVERAGE}" if selects_average else AVERAGE
    lines = [(title, ""), *([] if same else [(f"last (step {last})", "last/")]), (f"average (step {last})", average)]
    if selects_average and best == last:
        lines.pop()  # the best are those at the end
    width = max(18, *(len(label) for label, _ in lines))
    for label, prefix in lines:
        losses = [summary[key] for split in splits if (key := f"{prefix}{split}/loss") in summary]
        if losses and not any(loss is not None and math.isfinite(loss) for loss in losses):
            continue  # no metric of weights that are not finite means anything
        for name in names:
            values = [summary.get(f"{prefix}{split}/{name}") for split in splits]
            if any(v is not None for v in values):
                table.add_row(Text(f"{label:<{width}} {name}"), *(format_metric(v) for v in values))
    return table


def format_parameter_groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each parameter group, as Experiment.parameter_groups describes it."""
    width = max((len(group["name"]) for group in groups), default=0)
    counts = [f"{group['weights']:,}" for group in groups]
    widest = max(map(len, counts), default=0)
    return [
        f"{group['name']:<{width}}  {count:>{widest}} weights  {_describe_factors(group)}"
        for group, count in zip(groups, counts, strict=True)
    ]


def _describe_factors(group: Mapping[str, Any]) -> str:
    parts = []
    if group["frozen"]:
        parts.append("frozen" if group["frozen"] == group["weights"] else f"{group['frozen']:,} frozen")
    parts += [f"{key} x {_format_range(*group[key])}" for key in ("lr", "decay") if group[key]]
    return "  ".join(parts)


def _format_range(least: float, largest: float) -> str:
    return f"{least:.4g}" if least == largest else f"{least:.4g} to {largest:.4g}"

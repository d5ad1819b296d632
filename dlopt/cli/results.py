"""Tables of results, for the end of a run and for `dlopt show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table


def results(summary: dict[str, Any]) -> Table:
    """Loss and metrics by split, at the best weights and at the last."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    splits = [s for s in ("train", "val", "test") if any(k.startswith(s + "/") for k in summary)]
    names = list(dict.fromkeys(k.partition("/")[2] for k in summary if k.partition("/")[0] in splits))
    table.add_column("")
    for split in splits:
        table.add_column({"val": "validation"}.get(split, split), justify="right")
    best, last = summary.get("best/step"), summary.get("step")
    title = f"best (step {best})" if "val" in splits else f"last (step {last})"
    for label, prefix in ((title, ""), (f"last (step {last})", "last/")):
        for name in names:
            values = [summary.get(f"{prefix}{split}/{name}") for split in splits]
            if any(v is not None for v in values):
                table.add_row(f"{label:<18} {name}", *(number(v) for v in values))
        if best == last or "val" not in splits:
            break  # they are the same
    return table


def headline(row: dict[str, Any]) -> list[str]:
    """The few metrics that fit a line."""
    wanted = (
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "val/r2",
        "test/loss",
        "test/accuracy",
        "test/r2",
    )
    return [name for name in wanted if name in row]


def number(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def as_typed(path: Path) -> str:
    """A path as people would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

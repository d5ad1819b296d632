"""The results of a race as a table, and every step of it as CSV."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlopt.formatting import format_metric
from dlopt.landscape.race import Track, TrackResult
from dlopt.report.text_table import GREEN, RED, YELLOW, TextTable
from dlopt.storage import atomic

STYLES = {"converged": GREEN, "left the saddle": GREEN, "diverged": RED, "at a saddle point": YELLOW}


def make_table(
    outcomes: Mapping[str, Sequence[TrackResult]], lrs: Mapping[str, float | None], *, has_minimum: bool
) -> TextTable:
    """Return a row for each optimizer, in the order of the arguments; medians if there are several starts.

    The steps and evaluations are those to f - f* <= 1e-6, over the starts that reach it.
    """
    value = "f - f*" if has_minimum else "f"
    header = ["optimizer", "lr", "status", "steps", "evaluations", value, "distance"]
    rows, styles = [], []
    for name, ends in outcomes.items():
        counts = Counter(end.status for end in ends)
        status = next(iter(counts)) if len(ends) == 1 else ", ".join(f"{n} {s}" for s, n in counts.most_common())
        lr = lrs[name]
        row = [name, "-" if lr is None else f"{lr:g}", status]
        row += [_median([end.steps for end in ends]), _median([end.evaluations for end in ends])]
        row += [_median([end.f for end in ends], exact=True), _median([end.distance for end in ends], exact=True)]
        rows.append(row)
        styles.append(["", "", STYLES.get(status, "") if len(ends) == 1 else "", "", "", "", ""])
    return TextTable(header, rows, [False, True, False, True, True, True, True], styles)


def _median(values: Sequence[float | None], *, exact: bool = False) -> str:
    """Return the median of the known values: a count, or a number with a few digits; - if none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return format_metric(statistics.median(known)) if exact else f"{statistics.median(known):,.0f}"


def write_steps(tracks: Mapping[str, Sequence[Track]], file: Path) -> Path:
    """Write a row for each iterate: optimizer, start, step, weights, f and evaluations. Return the file."""
    size = next(iter(tracks.values()))[0].w.shape[-1]
    names = ["x", "y"] if size == 2 else [f"w{i + 1}" for i in range(size)]
    lines = [",".join(["optimizer", "start", "step", *names, "f", "evaluations"])]
    for name, each in tracks.items():
        for start, track in enumerate(each):
            columns = zip(track.w.tolist(), track.f.tolist(), track.evaluations.tolist(), strict=True)
            for step, (w, f, evaluations) in enumerate(columns):
                lines.append(",".join([name, str(start), str(step), *map(repr, w), repr(f), str(evaluations)]))
    atomic.atomic_write_bytes(file, ("\n".join(lines) + "\n").encode())
    return file

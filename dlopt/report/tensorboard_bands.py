"""Mean and band over the repeats of a run, as a TensorBoard run of its own.

At each step that every repeat has a finite value of, with n repeats and values v_i:

    val/loss         the mean m = sum v_i / n
    sd/val/loss      the sample standard deviation s = sqrt(sum (v_i - m)^2 / (n - 1)); 0 of one repeat
    lower/val/loss   m - s
    upper/val/loss   m + s

and so for every tag. The dashboard CUSTOM SCALARS draws the mean with the band from lower to upper.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.tensorboard import EventFileWriter

CLOCK = ("step", "epoch", "seconds")
"""Of a row what is no tag of TensorBoard's."""
EVENTS = "events.out.tfevents.*"
MAX_SCALAR = 1e38
"""TensorBoard's scalars have 32 bits, and end a little above; a larger value counts as none."""


def write(runs: Sequence[Path], folder: Path) -> int:
    """Write the mean over the runs in these directories into a folder, in place of the one that is there.

    Returns the number of tags. Where the runs have no step in common nothing is written, and what was there is gone.
    """
    found = compute_bands([RunDirectory(path).rows() for path in runs])
    former = list(folder.glob(EVENTS))
    if found:
        folder.mkdir(parents=True, exist_ok=True)
        _write(found, folder)
    for file in former:
        file.unlink()
    return len({tag for values in found.values() for tag in values})


def compute_bands(repeats: Sequence[Sequence[Row]]) -> dict[int, dict[str, tuple[float, float]]]:
    """For each step, in order, the mean and the standard deviation of each tag; only those that all repeats have.

    Of several rows of one step the last counts.
    """
    values = [{(row["step"], tag): v for row in rows for tag, v in row.items() if _counts(tag, v)} for rows in repeats]
    common = set.intersection(*(set(one) for one in values)) if values else set()
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for step, tag in sorted(common):
        these = [one[step, tag] for one in values]
        mean = statistics.fmean(these)
        sd = math.hypot(*(v - mean for v in these)) / math.sqrt(max(len(these) - 1, 1))
        found.setdefault(step, {})[tag] = mean, sd
    return found


def _counts(tag: str, value: Any) -> bool:
    return tag not in CLOCK and isinstance(value, (int, float)) and abs(value) < MAX_SCALAR


def _write(found: dict[int, dict[str, tuple[float, float]]], folder: Path) -> None:
    events = EventFileWriter(folder)
    try:
        tags = list(dict.fromkeys(tag for values in found.values() for tag in values))
        events.add_bands({tag: [(tag, f"lower/{tag}", f"upper/{tag}")] for tag in tags})
        for step, values in found.items():
            row: dict[str, float] = {}
            for tag, (mean, sd) in values.items():
                row |= {tag: mean, f"sd/{tag}": sd, f"lower/{tag}": mean - sd, f"upper/{tag}": mean + sd}
            events.add_scalars(step, row)
    finally:
        events.close()

"""Write the mean and a band over the repeats of a run as a TensorBoard run of its own.

For n repeats with finite values v_i at a step:

    Loss/val         the mean m = sum v_i / n; the tag of val/loss
    sd/Loss/val      the sample standard deviation s = sqrt(sum (v_i - m)^2 / (n - 1)); 0 for one repeat
    lower/Loss/val   m - s
    upper/Loss/val   m + s

and so on for every tag. Steps that some repeat lacks are omitted. The dashboard CUSTOM SCALARS draws the mean with the
band from lower to upper.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.tensorboard import EventFileWriter, to_tag

CLOCK = ("step", "epoch", "seconds")
"""Keys of a row that are not TensorBoard tags."""
EVENTS = "events.out.tfevents.*"
MAX_SCALAR = 1e38
"""TensorBoard's scalars have 32 bits, which end slightly above; larger values count as missing."""


def write(runs: Sequence[Path], folder: Path) -> int:
    """Write the bands of these runs into a folder, replacing earlier ones. Return the number of tags.

    If the runs have no step in common, nothing is written, and earlier ones are removed.
    """
    bands = compute_bands([RunDirectory(path).rows() for path in runs])
    earlier = list(folder.glob(EVENTS))
    tags = list(dict.fromkeys(tag for values in bands.values() for tag in values))
    if bands:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(EventFileWriter(folder)) as events:
            events.add_charts(tags, has_bands=True)
            for step, values in bands.items():
                row: dict[str, float] = {}
                for tag, (mean, sd) in values.items():
                    row |= {tag: mean, f"sd/{tag}": sd, f"lower/{tag}": mean - sd, f"upper/{tag}": mean + sd}
                events.add_scalars(step, row)
    for file in earlier:
        file.unlink()
    return len(tags)


def compute_bands(repeats: Sequence[Sequence[Row]]) -> dict[int, dict[str, tuple[float, float]]]:
    """Return mean and standard deviation by step, in order, and by tag, if all repeats have a value.

    Of several rows of one step the last counts.
    """
    values = [
        {(row["step"], to_tag(key)): v for row in rows for key, v in row.items() if _is_scalar(key, v)}
        for rows in repeats
    ]
    common = set.intersection(*(set(one) for one in values)) if values else set()
    bands: dict[int, dict[str, tuple[float, float]]] = {}
    for step, tag in sorted(common):
        sample = [one[step, tag] for one in values]
        mean = statistics.fmean(sample)
        sd = math.hypot(*(v - mean for v in sample)) / math.sqrt(max(len(sample) - 1, 1))
        bands.setdefault(step, {})[tag] = mean, sd
    return bands


def _is_scalar(key: str, value: Any) -> bool:
    return key not in CLOCK and isinstance(value, (int, float)) and abs(value) < MAX_SCALAR

"""Pictures and densities in the event files of a run, which someone else may have written."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dlopt.rundir.tensorboard import PNG_SIGNATURE, Bucket

DENSITIES = ("histogram/curvature/density",)
"""Tags of the histograms that are drawn; those of weights, gradients and activations are too many."""
MAX_PICTURES = 100
"""Pictures of one run at most: far more than its diagnostics have."""
MAX_BYTES, MAX_BUCKETS = 1 << 22, 10_000
"""Size of a picture, and number of buckets of a density: larger ones are left out."""


class Density(NamedTuple):
    """A density that was measured at a step: masses in buckets."""

    step: int
    buckets: list[Bucket]


Drawing = bytes | Density
"""A PNG file, or what is drawn as a histogram."""


def read_drawings(folder: Path) -> dict[str, Drawing]:
    """Return the last picture or density of each tag in the event files of a run, sorted by tag.

    As in TensorBoard, the start of a resumed run drops later steps of older files. What is damaged, too large or in
    excess of MAX_PICTURES is left out.
    """
    drawings: dict[str, Drawing] = {}
    end = math.inf
    files = (f for f in folder.glob("events.out.tfevents.*") if f.is_file() and not f.is_symlink())
    for file in sorted(files, reverse=True):  # the newest first
        found: dict[str, Drawing] = {}
        start = end
        for event in _iter_events(file):
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                start = min(start, event.step)
            for tag, drawing in _iter_drawings(event) if event.step < end else ():
                if tag in found or len(found) < MAX_PICTURES:
                    found[tag] = drawing
        drawings = found | drawings
        end = start
    return {tag: drawings[tag] for tag in sorted(drawings)[:MAX_PICTURES]}


def _iter_events(file: Path) -> Iterator[Any]:
    """Yield the events of a file up to the first one that is damaged."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    try:
        yield from EventFileLoader(str(file)).Load()
    except Exception:  # damaged files fail in many ways
        return


def _iter_drawings(event: Any) -> Iterator[tuple[str, Drawing]]:
    from tensorboard.plugins.histogram import metadata as histogram
    from tensorboard.plugins.image import metadata as image

    for value in event.summary.value:
        plugin, parts = value.metadata.plugin_data.plugin_name, value.tensor.string_val
        is_picture = plugin == image.PLUGIN_NAME and len(parts) > 2 and parts[2].startswith(PNG_SIGNATURE)
        if is_picture and len(parts[2]) <= MAX_BYTES:
            yield value.tag, parts[2]
        is_density = plugin == histogram.PLUGIN_NAME and value.tag in DENSITIES
        if is_density and (buckets := _parse_buckets(value.tensor.tensor_content)):
            yield value.tag.removeprefix("histogram/"), Density(event.step, buckets)


def _parse_buckets(content: bytes) -> list[Bucket]:
    """Return the buckets of a histogram, or none if they cannot be drawn."""
    if len(content) % 24 or len(content) > 24 * MAX_BUCKETS:
        return []
    numbers = array("d", content)
    buckets = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    ascend = all(left < right for left, right, _ in buckets)
    return buckets if ascend and all(map(math.isfinite, numbers)) else []

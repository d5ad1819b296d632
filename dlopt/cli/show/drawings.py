"""The pictures of a run's diagnostics, as files next to its curves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dlopt.report.figures import plot_density, replace_picture
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.drawings import read_drawings
from dlopt.storage import atomic

MAX_NAME = 100
"""Characters of a name that a tag gives."""


def save_drawings(run: RunDirectory, file: Path, heading: str) -> None:
    """Write the last pictures of the diagnostics of a run next to a file that can be written, and print their paths."""
    drawings = read_drawings(run.path)
    for name, (tag, drawing) in zip(choose_names(drawings), drawings.items(), strict=True):
        picture = file.with_name(f"{file.stem}-{name}.png")
        if isinstance(drawing, bytes):
            atomic.atomic_write_bytes(picture, drawing)
        else:
            replace_picture(plot_density(drawing.buckets, f"{heading}, {tag}, step {drawing.step}"), picture)
        print(display_path(picture))


def choose_names(tags: Iterable[str]) -> list[str]:
    """Return names for the files of these tags, which differ also where case does not count."""
    names: list[str] = []
    for tag in tags:
        stem = name = re.sub(r"[^a-zA-Z0-9_.]", "-", tag)[:MAX_NAME]
        taken = {other.lower() for other in names}
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names

"""The files of `dlopt spectrum` and `dlopt landscape`: in a folder of the run, or in another one."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path, PurePath

from dlopt.config.problems import ConfigError
from dlopt.formatting import to_file_name
from dlopt.rundir.directory import ResultName, RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.find import ROOT
from dlopt.storage import atomic

LONGEST_NAME = 50
"""Largest number of characters of a run in the name of a file, which may name three."""
LONGEST_LABEL = 28
"""Largest number of characters of a run in a picture."""
DIGITS = ".9g"
"""Format of numbers: float32 is read back unchanged."""


def choose_folder(run: RunDirectory, out: str | None, name: ResultName) -> Path:
    """Return the folder for results: `out`, or the folder of this name in the run's directory; it need not exist.

    Raises ConfigError if it cannot be a folder, or a link in the run leads to another place.
    """
    folder = run.results(name) if out is None else Path(out).expanduser()
    if out is None and folder.is_symlink():
        raise ConfigError([("--out", f"{display_path(folder)} is a symbolic link: name a folder with --out")])
    check_folder(folder)
    return folder


def name_run(run: RunDirectory) -> str:
    """Return a run's path below the default folder of runs, or the working directory, as a part of a file's name."""
    path = display_path(run.path)
    name = to_file_name(path.removeprefix(f"{ROOT}/"))
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{sha256(path.encode()).hexdigest()[:6]}"


def label_runs(runs: Sequence[tuple[str, int]]) -> list[str]:
    """Return short labels of runs for a picture, given their paths and steps: the ends of the paths from where they
    differ; with the steps if they are one run. The run 0 of a sweep is "run 0", as a number looks like a coordinate.
    """
    paths = [path for path, _ in runs]
    if len(set(paths)) < len(paths):
        return [f"{_shorten(PurePath(path).name)}, step {step:,}" for path, step in runs]
    folders = [PurePath(path).parts for path in paths]
    same = next((i for i, names in enumerate(zip(*folders, strict=False)) if len(set(names)) > 1), 0)
    labels = ["/".join(parts[same:]) or path for parts, path in zip(folders, paths, strict=True)]
    return [_shorten(f"run {label}" if label.isdecimal() else label) for label in labels]


def _shorten(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"...{label[3 - LONGEST_LABEL :]}"


def check_folder(folder: Path) -> None:
    """Raise ConfigError if files cannot be written to a folder that may have to be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    wrong = "is not a directory" if not existing.is_dir() else "" if os.access(existing, os.W_OK) else "is read-only"
    if wrong:
        raise ConfigError([("--out", f"{display_path(existing)} {wrong}: name another folder")])


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[float | int | str]]) -> Path:
    """Write a table of numbers atomically, and make its folder. Return the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([format(x, DIGITS) if isinstance(x, float) else x for x in row] for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.atomic_write_bytes(file, text.getvalue().encode())
    return file

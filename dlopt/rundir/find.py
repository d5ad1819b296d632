"""Find runs and sweeps by a path, a part of one, or `last`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlopt.rundir.directory import RunDirectory
from dlopt.storage.safe_read import to_printable

ROOT = Path("outputs")
"""Default folder of runs."""
SWEEP_FILE = "sweep.json"
"""File of a sweep that describes its search."""
SWEEP_FILES = (SWEEP_FILE, "multirun.yaml")
"""Files of a sweep's directory; one of them is enough."""


class RunNotFound(LookupError):
    """A name refers to no run, or to more than one; the message says which."""


def find_run(name: str = "last", root: Path | str = ROOT) -> RunDirectory:
    """Return the run at a path, the only run with this part of a path, or `last` for the newest run."""
    if not name:
        raise RunNotFound("name a run: last, a directory, or a part of its name")
    if os.path.lexists(RunDirectory(name).status_file):
        return RunDirectory(name)
    paths = list_runs(root)
    run = None if name == "last" else find_unique(name, paths, root, "runs")
    if run is None and Path(name).is_dir():
        raise RunNotFound(f"{to_printable(name)} holds no run (it has no {RunDirectory(name).status_file.name})")
    if not paths:
        raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
    if name == "last":
        return RunDirectory(paths[-1])
    if run is None:
        newest = to_printable(str(paths[-1]))
        raise RunNotFound(f"no run in {root}/ is called '{to_printable(name)}'; the newest is {newest}")
    return RunDirectory(run)


def find_unique(name: str, paths: Sequence[Path], root: Path | str, kind: str) -> Path | None:
    """Return the only path below root that contains the name, or None. Raises RunNotFound if there are more."""
    matches = [path for path in paths if name in str(path.relative_to(root))]
    if len(matches) > 1:
        lines = "".join(f"\n  {to_printable(str(path))}" for path in matches[-5:])
        raise RunNotFound(f"{len(matches)} {kind} are called '{to_printable(name)}'; type a longer part of one:{lines}")
    return matches[0] if matches else None


def list_runs(root: Path | str = ROOT) -> list[Path]:
    """Return the run directories below root, the newest last."""
    return [Path(path) for _, path in sorted(_walk_runs(str(root)))]


def list_sweeps(root: Path = ROOT) -> list[Path]:
    """Return the directories of sweeps below root, the newest last."""
    return sorted({file.parent for name in SWEEP_FILES for file in root.glob(f"multirun/*/*/{name}")})


def is_sweep(folder: Path) -> bool:
    """Return whether a directory holds a sweep."""
    return any((folder / name).is_file() for name in SWEEP_FILES)


def find_sweep(name: str, root: Path = ROOT) -> Path | None:
    """Return the sweep at a path, or the only sweep with this part of a path.

    Returns None if there is no such sweep, or if the name refers to a run or to several sweeps.
    """
    if os.path.lexists(RunDirectory(name).status_file):
        return None
    if Path(name).is_dir():
        return Path(name) if is_sweep(Path(name)) else None
    matches = [sweep for sweep in list_sweeps(root) if name in str(sweep.relative_to(root))]
    if name in ("", "last") or len(matches) != 1:
        return None
    others = [p for p in list_runs(root) if name in str(p.relative_to(root)) and matches[0] not in p.parents]
    return None if others else matches[0]


def _walk_runs(folder: str) -> Iterator[tuple[float, str]]:
    """Yield every run directory with the time of its status. A run holds no other run."""
    folders = [folder]
    while folders:
        path = folders.pop()
        try:
            yield Path(path, "status.json").stat().st_mtime, path
            continue
        except OSError:
            pass
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            folders += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

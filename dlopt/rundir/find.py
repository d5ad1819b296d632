"""Runs and sweeps by their names: a path, a part of one, `last`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlopt.rundir.directory import RunDirectory
from dlopt.storage.safe_read import to_printable

ROOT = Path("outputs")
"""Where runs lie unless told otherwise."""
SWEEP_FILE = "sweep.json"
"""In the directory of a sweep: what is searched."""
SWEEP_FILES = (SWEEP_FILE, "multirun.yaml")
"""Of which the directory of a sweep has one at least."""


class RunNotFound(LookupError):
    """No run, or more than one, answers to a name; the message says which."""


def find_run(name: str = "last", root: Path | str = ROOT) -> RunDirectory:
    """The run called by a path, by a part of its path that no other run has, or `last` for the newest."""
    if not name:
        raise RunNotFound("name a run: last, a directory, or a part of its name")
    if os.path.lexists(RunDirectory(name).status_file):
        return RunDirectory(name)
    known = list_runs(root)
    found = None if name == "last" else find_unique(name, known, root, "runs")
    if found is None and Path(name).is_dir():
        raise RunNotFound(f"{to_printable(name)} holds no run (it has no {RunDirectory(name).status_file.name})")
    if not known:
        raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
    if name == "last":
        return RunDirectory(known[-1])
    if found is None:
        newest = to_printable(str(known[-1]))
        raise RunNotFound(f"no run in {root}/ is called '{to_printable(name)}'; the newest is {newest}")
    return RunDirectory(found)


def find_unique(name: str, known: Sequence[Path], root: Path | str, kind: str) -> Path | None:
    """The one of these paths below root that has the name in it, None for none; RunNotFound where there are more."""
    found = [path for path in known if name in str(path.relative_to(root))]
    if len(found) > 1:
        shown = "".join(f"\n  {to_printable(str(path))}" for path in found[-5:])
        raise RunNotFound(f"{len(found)} {kind} are called '{to_printable(name)}'; say more of one of them:{shown}")
    return found[0] if found else None


def list_runs(root: Path | str = ROOT) -> list[Path]:
    """Every run directory below root, the newest last."""
    return [Path(path) for _, path in sorted(_walk_runs(str(root)))]


def list_sweeps(root: Path = ROOT) -> list[Path]:
    """The directory of every sweep below root, the newest last."""
    return sorted({file.parent for name in SWEEP_FILES for file in root.glob(f"multirun/*/*/{name}")})


def is_sweep(folder: Path) -> bool:
    """Whether a directory is that of a sweep."""
    return any((folder / name).is_file() for name in SWEEP_FILES)


def find_sweep(name: str, root: Path = ROOT) -> Path | None:
    """The sweep that a name means: its directory, or a part of its path that is in no other's, nor in a run's outside.

    None where the name is a run's, or several have it.
    """
    if os.path.lexists(RunDirectory(name).status_file):
        return None
    if Path(name).is_dir():
        return Path(name) if is_sweep(Path(name)) else None
    found = [sweep for sweep in list_sweeps(root) if name in str(sweep.relative_to(root))]
    if name in ("", "last") or len(found) != 1:
        return None
    others = [path for path in list_runs(root) if name in str(path.relative_to(root)) and found[0] not in path.parents]
    return None if others else found[0]


def _walk_runs(folder: str) -> Iterator[tuple[float, str]]:
    """Every run directory, and when its status was written. A run holds no other run, so it is not looked into."""
    left = [folder]
    while left:
        path = left.pop()
        try:
            yield Path(path, "status.json").stat().st_mtime, path
            continue
        except OSError:
            pass
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            left += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]

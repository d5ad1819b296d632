"""Paths as people type them, and the runs and folders that they mean by a name."""

from __future__ import annotations

from pathlib import Path

from dlopt.rundir.find import ROOT, RunNotFound, find_unique, list_sweeps
from dlopt.storage.safe_read import to_printable


def display_path(path: Path) -> str:
    """A path as people would type it, fit for a terminal."""
    try:
        return to_printable(str(path.relative_to(Path.cwd())))
    except ValueError:
        return to_printable(str(path))


def find_folder(name: str | None, root: Path = ROOT) -> Path:
    """A folder of runs: a path, a part of the path of one sweep, or `last` for the newest; None is all of root."""
    if name is None:
        if not root.is_dir():
            raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
        return root
    if Path(name).is_dir():
        return Path(name)
    known = list_sweeps(root)
    if name == "last" and known:
        return known[-1]
    found = find_unique(name, known, root, "sweeps")
    if found is None:
        newest = f"; the newest sweep is {display_path(known[-1])}" if known else ""
        raise RunNotFound(f"there is no folder '{to_printable(name)}', and no sweep in {root}/ is called so{newest}")
    return found


def make_report_path(run: Path, what: str) -> Path:
    """Where a picture of a run goes unless told otherwise: under a name that no other run's has."""
    inside = run.resolve().parts
    at = inside.index(ROOT.name) + 1 if ROOT.name in inside else len(inside) - 2
    return ROOT / "reports" / f"{'-'.join(inside[at:])}-{what}.png"

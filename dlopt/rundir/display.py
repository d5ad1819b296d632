"""Paths as users type them, and the folders that names refer to."""

from __future__ import annotations

from pathlib import Path

from dlopt.rundir.find import ROOT, RunNotFound, find_last, find_unique, list_sweeps
from dlopt.storage.safe_read import to_printable


def display_path(path: Path) -> str:
    """Return a path relative to the working directory if it lies in it, safe for a terminal."""
    try:
        return to_printable(str(path.relative_to(Path.cwd())))
    except ValueError:
        return to_printable(str(path))


def find_folder(name: str | None, root: Path = ROOT) -> Path:
    """Return a folder of runs: a path, the sweep with this part of a path, or `last`, also a run; None: root."""
    if name is None:
        if not root.is_dir():
            raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
        return root
    if Path(name).is_dir():
        return Path(name)
    if name == "last" and (last := find_last(root)) is not None:
        return last
    sweeps = list_sweeps(root)
    sweep = find_unique(name, sweeps, root, "sweeps")
    if sweep is None:
        newest = f"; the newest sweep is {display_path(sweeps[-1])}" if sweeps else ""
        raise RunNotFound(f"there is no folder '{to_printable(name)}', and no such sweep in {root}/{newest}")
    return sweep


def identify_run(run: Path) -> str:
    """Return the path of a run below the folder of all runs; of a run elsewhere, the last two parts of its path."""
    parts = run.resolve().parts
    begin = parts.index(ROOT.name) + 1 if ROOT.name in parts else len(parts) - 2
    return "/".join(parts[begin:])


def make_report_path(run: Path, what: str) -> Path:
    """Return the default path of a picture of a run, which is unique to the run."""
    return ROOT / "reports" / f"{identify_run(run).replace('/', '-')}-{what}.png"


def make_export_path(run: Path, suffix: str) -> Path:
    """Return the default path of an exported file of a run, which is unique to the run."""
    return ROOT / "exports" / f"{identify_run(run).replace('/', '-')}{suffix}"

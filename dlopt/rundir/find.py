"""Find runs and sweeps by a path, a part of one, or `last`: the run or sweep that was started or resumed last."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dlopt.errors import OptionError
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import LOCK_FILE
from dlopt.storage import checkpoint_file
from dlopt.storage.safe_read import to_printable

ROOT = Path("outputs")
"""Default folder of runs."""
SWEEP_FILE = "sweep.json"
"""File of a sweep that describes its search."""
SWEEP_FILES = (SWEEP_FILE, "multirun.yaml")
"""Files of a sweep's directory; one of them is enough."""


class RunNotFound(LookupError):
    """A name refers to no run, or to more than one; the message says which."""


class Entry(NamedTuple):
    """A run or a sweep below a folder.

    modified   time of its newest file that is written at the start
    is_part    whether it is a run of a sweep
    """

    modified: float
    path: Path
    is_sweep: bool
    is_part: bool


def find_run(name: str = "last", root: Path | str = ROOT) -> RunDirectory:
    """Return the run at a path, the only run with this part of a path, or `last`. Raises RunNotFound for a sweep."""
    if not name:
        raise RunNotFound("name a run: last, a directory, or a part of its name")
    if os.path.lexists(RunDirectory(name).status_file):
        return RunDirectory(name)
    last = find_last(root)
    paths = [] if name == "last" else list_runs(root)
    run = last if name == "last" else find_unique(name, paths, root, "runs")
    folder = run if name == "last" else Path(name)
    if folder is not None and is_sweep(folder):
        place = to_printable(str(folder))
        raise RunNotFound(f"{place} is a sweep; name one of its runs, such as {place}/0")
    if run is None and Path(name).is_dir():
        raise RunNotFound(f"{to_printable(name)} holds no run (it has no {RunDirectory(name).status_file.name})")
    if last is None:
        raise RunNotFound(f"there are no runs in {root}/ yet: dlopt train makes one")
    if run is None:
        newest = to_printable(str(last))
        raise RunNotFound(f"no run in {root}/ is called '{to_printable(name)}'; the newest is {newest}")
    return RunDirectory(run)


def check_name(name: str | None, key: str) -> str:
    """Return the name of a run in a configuration. Raises OptionError at the key if it is missing, or `last`."""
    if name is None:
        raise OptionError(key, "name a run: its directory, or a unique part of its name")
    if name == "last":
        raise OptionError(key, "last is another run tomorrow; name it by its directory, or a part of its name")
    return name


def find_last(root: Path | str = ROOT) -> Path | None:
    """Return the run or sweep that was started or resumed last, or None. A run of a sweep is only a part of it."""
    newest, last = -math.inf, None
    for entry in sorted(_walk(str(root)), reverse=True):
        if entry.modified < newest:  # a file cannot record a start after it was written
            break
        if not entry.is_part:
            started = entry.modified if entry.is_sweep else _read_start(entry)
            newest, last = max((newest, last), (started, entry.path), key=lambda pair: pair[0])
    return last


def find_unique(name: str, paths: Sequence[Path], root: Path | str, kind: str) -> Path | None:
    """Return the only path below root that contains the name, or None. Raises RunNotFound if there are more."""
    matches = [path for path in paths if name in str(path.relative_to(root))]
    if len(matches) > 1:
        lines = "".join(f"\n  {to_printable(str(path))}" for path in matches[-5:])
        raise RunNotFound(f"{len(matches)} {kind} are called '{to_printable(name)}'; type a longer part of one:{lines}")
    return matches[0] if matches else None


def list_runs(root: Path | str = ROOT) -> list[Path]:
    """Return the run directories below root, the latest change last."""
    return [entry.path for entry in sorted(_walk(str(root))) if not entry.is_sweep]


def list_sweeps(root: Path | str = ROOT) -> list[Path]:
    """Return the directories of sweeps below root, the newest last."""
    return [entry.path for entry in sorted(_walk(str(root))) if entry.is_sweep]


def list_linked_folders(root: str) -> list[str]:
    """Return the links in outputs/ to other folders, one for each folder that is not in, above, or equal to it.

    Return none for another root.
    """
    linked: dict[Path, str] = {}
    if os.path.realpath(root) != os.path.realpath(ROOT):
        return []
    with contextlib.suppress(OSError), os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink() and entry.is_dir():
                target, top = Path(entry.path).resolve(), Path(root).resolve()
                if not (target.is_relative_to(top) or top.is_relative_to(target)):
                    linked.setdefault(target, entry.path)
    return list(linked.values())


def is_sweep(folder: Path) -> bool:
    """Return whether a directory holds a sweep."""
    return any((folder / name).is_file() for name in SWEEP_FILES)


def find_sweep(name: str, root: Path = ROOT) -> Path | None:
    """Return the sweep at a path, the only sweep with this part of a path, or `last` if that is a sweep.

    Returns None if there is no such sweep, or if the name refers to a run or to several sweeps.
    """
    if os.path.lexists(RunDirectory(name).status_file):
        return None
    if Path(name).is_dir():
        return Path(name) if is_sweep(Path(name)) else None
    if name == "last":
        last = find_last(root)
        return last if last is not None and is_sweep(last) else None
    matches = [sweep for sweep in list_sweeps(root) if name in str(sweep.relative_to(root))]
    if not name or len(matches) != 1:
        return None
    others = [p for p in list_runs(root) if name in str(p.relative_to(root)) and matches[0] not in p.parents]
    return None if others else matches[0]


def _read_start(entry: Entry) -> float:
    """Return the recorded time at which the latest process of a run started; if it is damaged, its last change."""
    status = RunDirectory(entry.path).status_or_none() or {}
    started = status.get("since", status.get("started"))
    return started if isinstance(started, (int, float)) and math.isfinite(started) else entry.modified


def _walk(root: str) -> Iterator[Entry]:
    """Yield the runs and sweeps below a folder. A run holds no other run.

    Links are followed only if they are outputs/ itself or lie directly in it: other folders may come from someone else.
    """
    folders = [(root, False)]
    linked = list_linked_folders(root)
    while folders:
        path, is_part = folders.pop()
        with contextlib.suppress(OSError):
            yield Entry(os.lstat(RunDirectory(path).status_file).st_mtime, Path(path), False, is_part)
            continue
        times, inner = [], []
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) or (path == root and entry.path in linked):
                    inner.append(entry)
                elif entry.name in SWEEP_FILES and entry.is_file():
                    times.append(entry.stat().st_mtime)
        if times:
            yield Entry(max(times), Path(path), True, is_part)
        folders += [(entry.path, is_part or (bool(times) and entry.name.isdecimal())) for entry in inner]


def is_file_name(name: str) -> bool:
    """Return whether a run or sweep has a file of this name, so that a directory cannot have it."""
    run = RunDirectory("")
    files = (run.config_file, run.hydra_file, run.overrides_file, run.status_file, run.metrics_file, run.summary_file)
    names = (*(file.name for file in (*files, run.log_file)), LOCK_FILE, *SWEEP_FILES, "study.log")
    return name in names or name.endswith((checkpoint_file.SUFFIX, ".tmp")) or name.startswith("events.out.tfevents")

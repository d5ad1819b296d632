"""Provenance of a run: code, packages, machine and command; enough to repeat it."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dlopt import __version__
from dlopt.rundir.git import Repository, find_repository
from dlopt.storage.safe_read import mask_passwords, to_printable

PACKAGES = ("torch", "numpy", "scikit-learn", "mnist1d", "hydra-core", "omegaconf", "tensorboard")
"""Packages on which the numbers or the files of a run depend."""
NUMERIC = ("dlopt", "python", "torch", "numpy", "scikit-learn", "mnist1d")
"""Versions on which numbers depend."""
MACHINE = {
    "system": "system",
    "architecture": "architecture",
    "cpu": "CPU",
    "capability": "CPU instructions",
    "device": "device",
    "accelerator": "accelerator",
    "cudnn": "cuDNN",
    "threads": "threads",
}
"""Properties of a machine on which numbers depend, and their names in messages."""


def get_versions() -> dict[str, str]:
    """Return the versions of dlopt, Python and installed packages; torch's with its build, such as +cpu."""
    versions = {"dlopt": __version__, "python": platform.python_version(), **_installed_versions()}
    torch = sys.modules.get("torch")  # the metadata of the package may lack the build
    return versions | ({"torch": str(torch.__version__)} if torch else {})


@cache
def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def describe_machine(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Return properties of the machine, and the device and threads of a run (None: torch's default).

    capability (the instruction set that torch uses), threads and the accelerator are known once torch is imported.
    """
    machine: dict[str, Any] = {
        "host": socket.gethostname(),
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": device,
    }
    torch = sys.modules.get("torch")
    if torch:
        machine["capability"] = torch.backends.cpu.get_cpu_capability()
        machine["threads"] = threads or torch.get_num_threads()
        if device.startswith("cuda"):
            machine["accelerator"] = torch.cuda.get_device_name(device)
            machine["cudnn"] = torch.backends.cudnn.version()
    return machine


@cache
def _cpu() -> str:
    """Return the name of the processor, or of the architecture if the system does not report it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def get_command() -> str:
    """Return the command line of this process, from `dlopt` on if it has that word, without passwords of addresses."""
    words = [mask_passwords(word) for word in sys.orig_argv]
    names = [Path(word).name for word in words]
    at = names.index("dlopt") if "dlopt" in names else 0
    if at and all(word.startswith("-") for word in words[1:at]):
        return shlex.join(["dlopt", *words[at + 1 :]])
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------ code


class _GitQuery(threading.Thread):
    """Runs git while modules are imported and data are loaded."""

    def __init__(self) -> None:
        super().__init__(name="git")
        self.working_folder, self.package_folder = Path.cwd(), Path(__file__).resolve().parents[2]
        self.repositories: dict[str, Repository] = {}

    def run(self) -> None:
        current = find_repository(self.working_folder)
        package = None
        if (self.package_folder / ".git").exists() and not (current and current.folder == self.package_folder):
            package = find_repository(self.package_folder)
        self.repositories = {
            name: repository for name, repository in (("git", current), ("dlopt", package)) if repository
        }


@cache
def _start_query() -> _GitQuery:
    thread = _GitQuery()
    thread.start()
    return thread


def start_git_query(*, again: bool = False) -> None:
    """Read the repositories in the background; early, since the code that runs is imported at the start.

    again: read them for a further run of a process that lasts, such as a notebook.
    """
    if again:
        _start_query.cache_clear()
    _start_query()


def get_repositories() -> dict[str, Repository]:
    """Return the repositories as they were at the first call of this function or the last `start_git_query`.

    git     the repository of the working directory, if there is one
    dlopt   the repository of dlopt, if it runs from another checkout
    """
    thread = _start_query()
    thread.join()
    return thread.repositories


# ------------------------------------------------------------------------------------------------ comparison


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return why numbers may differ: a line for each version, property of the machine and state of code that differs.

    Both mappings hold versions, machine and git, as the status of a run. An entry that one of them lacks is not
    compared. The lines are safe for a terminal.
    """
    lines = _describe_changes(then.get("versions"), now.get("versions"), {name: name for name in NUMERIC})
    lines += _describe_changes(then.get("machine"), now.get("machine"), MACHINE)
    return [
        to_printable(line) for line in lines + _describe_code_changes(list_repositories(then), list_repositories(now))
    ]


def list_repositories(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the repositories in the status of a run."""
    entries = status.get("git")
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, Sequence) else []


def _describe_changes(then: Any, now: Any, names: Mapping[str, str]) -> list[str]:
    keys = [key for key in names if key in (then or {}) and key in (now or {})]
    return [f"{names[key]} {then[key]} then, {now[key]} now" for key in keys if then[key] != now[key]]


def _describe_code_changes(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare repositories by the names of their folders: the same code in another place is not a difference."""
    equal_states = {_state(entry) for entry in then} & {_state(entry) for entry in now}
    before = {Path(entry["folder"]).name: entry for entry in then if _state(entry) not in equal_states}
    after = {Path(entry["folder"]).name: entry for entry in now if _state(entry) not in equal_states}
    names: Iterable[str] = dict.fromkeys((*before, *after))
    return [
        f"code of {name}: {_describe_state(before.get(name))} then, {_describe_state(after.get(name))} now"
        for name in names
    ]


def _state(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["commit"], entry["patch_sha256"], entry["unknown"]


def _describe_state(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "none"
    commit = entry["commit"]
    changes = f" with changes {entry['patch_sha256'][:7]}" if entry["patch"] else ""
    doubt = " with unknown changes" if entry["unknown"] else ""
    return (commit[:7] if commit else "no commit") + changes + doubt

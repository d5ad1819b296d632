"""What a run was made by: the code, the packages, the machine and the command; enough to make it again."""

from __future__ import annotations

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
"""Those that a run's numbers depend on, or that write its files."""
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
"""What of a machine numbers depend on, and what it is called."""


def get_versions() -> dict[str, str]:
    """Of dlopt, Python and the packages that are installed; torch's with the suffix of its build, such as +cpu."""
    found = {"dlopt": __version__, "python": platform.python_version(), **_installed_versions()}
    torch = sys.modules.get("torch")  # which knows its build where the package's name for it does not
    return found | ({"torch": str(torch.__version__)} if torch else {})


@cache
def _installed_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_machine(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """The machine and what of it a run uses; threads None: as many as torch takes by itself.

    capability, the instructions for which torch has code, and the accelerator are known once torch is imported.
    """
    found: dict[str, Any] = {
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
        found["capability"] = torch.backends.cpu.get_cpu_capability()
        found["threads"] = threads or torch.get_num_threads()
        if device.startswith("cuda"):
            found["accelerator"] = torch.cuda.get_device_name(device)
            found["cudnn"] = torch.backends.cudnn.version()
    return found


@cache
def _cpu() -> str:
    """The processor's name; where the system does not tell it, that of the architecture."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def get_command() -> str:
    """Return the command line of this process; from `dlopt` on, if that began it.

    Without the passwords of addresses: it is kept with every run.
    """
    words = [mask_passwords(word) for word in sys.orig_argv]
    names = [Path(word).name for word in words]
    at = names.index("dlopt") if "dlopt" in names else 0
    if at and all(word.startswith("-") for word in words[1:at]):
        return shlex.join(["dlopt", *words[at + 1 :]])
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------ code


class _GitQuery(threading.Thread):
    """Asks git while modules are imported and data are loaded."""

    def __init__(self) -> None:
        super().__init__(name="git")
        self.here, self.own = Path.cwd(), Path(__file__).resolve().parents[2]
        self.repositories: dict[str, Repository] = {}

    def run(self) -> None:
        here = find_repository(self.here)
        own = None
        if (self.own / ".git").exists() and not (here and here.folder == self.own):
            own = find_repository(self.own)
        self.repositories = {name: found for name, found in (("git", here), ("dlopt", own)) if found}


@cache
def _start_query() -> _GitQuery:
    thread = _GitQuery()
    thread.start()
    return thread


def start_git_query() -> None:
    """Look at the repositories in the background: early, for the code that is imported at the start is what runs."""
    _start_query()


def get_repositories() -> dict[str, Repository]:
    """As they were at the first call of this or begin(), the name of each being that of its patch's file.

    git     that of the working directory, if it lies in one
    dlopt   dlopt's own, where it runs from a checkout that is another one
    """
    thread = _start_query()
    thread.join()
    return thread.repositories


# ------------------------------------------------------------------------------------------------ then and now


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why numbers may differ: a line for each version, piece of a machine and state of code that is another one.

    Both hold versions, machine and git, as a run's status does. What one of them does not tell is not compared. The
    lines hold nothing that a terminal would obey.
    """
    lines = _describe_changes(then.get("versions"), now.get("versions"), {name: name for name in NUMERIC})
    lines += _describe_changes(then.get("machine"), now.get("machine"), MACHINE)
    return [
        to_printable(line) for line in lines + _describe_code_changes(list_repositories(then), list_repositories(now))
    ]


def list_repositories(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The repositories that a run's status tells of."""
    told = status.get("git")
    return [found for found in told if isinstance(found, Mapping)] if isinstance(told, Sequence) else []


def _describe_changes(then: Any, now: Any, names: Mapping[str, str]) -> list[str]:
    known = [key for key in names if key in (then or {}) and key in (now or {})]
    return [f"{names[key]} {then[key]} then, {now[key]} now" for key in known if then[key] != now[key]]


def _describe_code_changes(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Repositories are told apart by their folder's name: another place of the same code is no difference."""
    same = {_state(found) for found in then} & {_state(found) for found in now}
    before = {Path(found["folder"]).name: found for found in then if _state(found) not in same}
    after = {Path(found["folder"]).name: found for found in now if _state(found) not in same}
    names: Iterable[str] = dict.fromkeys((*before, *after))
    return [
        f"code of {name}: {_describe_state(before.get(name))} then, {_describe_state(after.get(name))} now"
        for name in names
    ]


def _state(found: Mapping[str, Any]) -> tuple[Any, ...]:
    return found["commit"], found["patch_sha256"], found["unknown"]


def _describe_state(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none"
    commit = found["commit"]
    changes = f" with changes {found['patch_sha256'][:7]}" if found["patch"] else ""
    doubt = " with unknown changes" if found["unknown"] else ""
    return (commit[:7] if commit else "no commit") + changes + doubt

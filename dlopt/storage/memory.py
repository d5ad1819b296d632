"""How much memory a run has taken, how much there is, and a bound on what may be taken."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALLOWED_FRACTION = 0.9
"""Of what is available, the part that `bounded` leaves to the process."""
SMALL = 1 << 20
"""Bytes for which nobody has to be asked."""


class NotEnoughMemoryError(ValueError):
    """More memory is needed than there is; the message says how much of both."""


def peak_memory(device: torch.device) -> int:
    """Bytes, at the most so far: of the device on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if Path("/proc/self/status").exists():  # on Linux getrusage begins with the peak of the starting process
        return _read_status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available() -> int | None:
    """Bytes that can still be taken before something else has to go, None where the system does not tell.

    On Linux what the kernel takes for available, and what the process's control groups leave it if that is less; files
    that the kernel keeps in memory for faster reading, and lets go when asked, do not count as taken.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _free_pages()
    (free,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(0, min([free, *_iter_cgroup_free()]))


def check(needed: int, what: str = "it") -> None:
    """Raise NotEnoughMemoryError where so many bytes are more than there are; what names the thing that needs them."""
    there = available() if needed > SMALL else None
    if there is not None and needed > there:
        raise NotEnoughMemoryError(f"{what} needs {needed / 1e6:,.0f} MB of memory, and {there / 1e6:,.0f} MB are free")


@contextlib.contextmanager
def limit_memory() -> Iterator[None]:
    """While this lasts, what goes beyond the memory that is available now fails, and the machine lives on.

    For commands that open what others may have written: Python raises MemoryError, torch RuntimeError, where otherwise
    the kernel would end this process or another one. It bounds the process's data (RLIMIT_DATA) on Linux, and does
    nothing elsewhere; the former bound comes back at the end.

    Not to be used around work on a GPU: CUDA sets aside address space by the size of all devices, far beyond what it
    takes of memory, and would fail. Threads and processes that begin inside are bounded too.
    """
    there = available() if sys.platform == "linux" else None
    if there is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _read_status("VmData") + int(ALLOWED_FRACTION * there)
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *(x for x in before if x >= 0)]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _read_status(field: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (x for x in lines if x.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _iter_cgroup_free(root: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group of this process, and those around it, may still take, in bytes."""
    try:
        groups = mine.read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            yield from _cgroup_free(root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif not controllers:  # the one hierarchy of the second version
            yield from _cgroup_free(root, path, "memory.max", "memory.current", "")


def _cgroup_free(root: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    folder = root / path.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            return
        try:
            most, taken = (group / limit).read_text().strip(), int((group / usage).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
        except OSError:  # the root has no limit, and in a container the path may be one of the host's
            continue
        if most != "max":
            kept = dict(line.split() for line in lines).get(f"{prefix}inactive_file", "0")
            yield int(most) - taken + int(kept)


def _free_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None

"""Available memory, the peak memory of a run, and a limit for commands that read files of others.

On Linux the kernel's files are read here: they hold the limits of control groups, which containers and clusters set and
psutil does not know, and importing psutil adds 11 ms to every command. Other systems are asked through psutil.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALLOWED_FRACTION = 0.9
"""Fraction of available memory that `limit_memory` allows."""
CGROUP_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Control groups, version 2 and 1, by their controllers: folder, limit, usage, and the cached files in memory.stat."""
SMALL = 1 << 20
"""Bytes that `check` allows without a look at the available memory."""
TORCH_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's RuntimeError says if memory is used up: on a CPU of Linux, on other CPUs, on a GPU."""


class NotEnoughMemoryError(ValueError):
    """More memory is needed than available; the message gives both."""


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the device on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # getrusage starts at the peak of the parent process there
        return _read_kilobytes("/proc/self/status", "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def get_available() -> int:
    """Return the memory in bytes that can be taken without swapping, by the system and the control groups.

    Files that the kernel caches in memory count as available.
    """
    if sys.platform == "linux":
        return max(0, min([_read_kilobytes("/proc/meminfo", "MemAvailable"), *_iter_cgroup_free()]))
    import psutil

    return psutil.virtual_memory().available


def check(needed: int, what: str = "it") -> None:
    """Raise NotEnoughMemoryError if this many bytes are not available; `what` names the thing that needs them."""
    if needed > SMALL and needed > (free := get_available()):
        raise NotEnoughMemoryError(f"{what} needs {needed / 1e6:,.0f} MB of memory, and {free / 1e6:,.0f} MB are free")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of `check`, Python or torch says that memory is used up."""
    if isinstance(error, MemoryError | NotEnoughMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TORCH_MESSAGES)


@contextlib.contextmanager
def limit_memory() -> Iterator[None]:
    """Let allocations beyond the memory that is available now fail, inside this context.

    Then Python raises MemoryError and torch RuntimeError. Otherwise the kernel would kill this process or another one.
    The limit is RLIMIT_DATA on Linux; other systems have no limit. Threads and processes that start inside are
    limited too.

    Do not use it around work on a GPU: CUDA reserves address space for the size of all devices, and would fail.
    """
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _read_kilobytes("/proc/self/status", "VmData") + int(ALLOWED_FRACTION * get_available())
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *(x for x in before if x >= 0)]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _read_kilobytes(file: str, name: str) -> int:
    """Return the value of a line `NAME: VALUE kB` of a file of the Linux kernel, in bytes."""
    (value,) = (line.split()[1] for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(value) * 1024


def _iter_cgroup_free(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Yield the bytes left to the control group of this process, and to each group that contains it."""
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in CGROUP_FILES:
            continue
        folder, *files, cached = CGROUP_FILES[controllers]
        inner = root / folder / path.lstrip("/")
        for group in (inner, *inner.parents):
            with contextlib.suppress(OSError):  # the root has no limit; in a container the path may be the host's
                limit, usage = ((group / name).read_text().strip() for name in files)
                stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                if limit != "max":
                    yield int(limit) - int(usage) + int(stat.get(cached, 0))

"""Inject a fault of the operating system into a chosen operation below a folder, in this process.

The operations are those that change a disk: names (replace, rename, unlink, link, mkdir, rmdir), opening a file for
writing, writing, truncation and fsync. Writes of Python's files are counted where their buffers reach the operating
system. What a library writes without Python is not counted.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

FaultKind = Literal["full", "broken", "half", "dies", "dies halfway"]
"""full: no space left, once. broken: an input/output error, once. half: the system writes a part, and from then on there
is no space. dies, dies halfway: the process ends before the operation, or in the middle of a write."""
KINDS: tuple[FaultKind, ...] = ("full", "broken", "half", "dies", "dies halfway")
NAMES = ("replace", "rename", "unlink", "remove", "link", "symlink", "mkdir", "rmdir", "truncate")
"""Operations of os whose first argument is a path, the last of them on open files too."""
SPACE_OPERATIONS = ("open", "write", "mkdir", "link", "symlink")
"""Operations that need space."""
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ProcessDied(BaseException):
    """The process ends: nothing that it does later reaches the disk."""


class FaultyDisk:
    """A folder with a fault.

    operations      the operations before the fault, as (name, path), in order
    fault_occurred  whether the fault has happened
    """

    def __init__(self, folder: Path, number: int | None, kind: FaultKind) -> None:
        self.folder = os.path.realpath(folder)
        self.number, self.kind = number, kind
        self.operations: list[tuple[str, str]] = []
        self.fault_occurred = False
        self.files: list[tuple[Any, FaultyFile]] = []
        self.descriptors: dict[int, str] = {}

    def contains(self, path: Any) -> bool:
        """Return whether a path or an open descriptor is the folder or lies in it."""
        if isinstance(path, int):
            return path in self.descriptors
        place = os.path.realpath(os.fspath(path))
        return place == self.folder or place.startswith(self.folder + os.sep)

    def path_of(self, descriptor: int) -> str:
        """Return the path of an open file; one that was opened only for reading is a folder."""
        opened = {raw.fileno(): raw.path for _, raw in self.files if not raw.closed} | self.descriptors
        return opened.get(descriptor, self.folder)

    def act(self, name: str, path: str, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do an operation, or fail; `half` does a part of it."""
        if self.fault_occurred and self.kind.startswith("dies"):
            raise ProcessDied(f"{name} {path}")
        if self.fault_occurred and self.kind == "half" and name in SPACE_OPERATIONS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.fault_occurred or self.number is None or len(self.operations) + 1 < self.number:
            result = act()
            self.operations.append((name, os.path.relpath(path, self.folder)))
            return result
        self.fault_occurred = True
        if half is not None and self.kind in ("half", "dies halfway"):
            result = half()
            if self.kind == "half":
                return result
        if self.kind.startswith("dies"):
            raise ProcessDied(f"{name} {path}")
        number = errno.EIO if self.kind == "broken" else errno.ENOSPC
        raise OSError(number, os.strerror(number), path)

    def close(self) -> None:
        """Close open files, as the end of a process does: buffers are lost, locks are released."""
        for _, raw in self.files:
            raw.close()
        for descriptor in self.descriptors:
            CLOSE(descriptor)
        self.files.clear()
        self.descriptors.clear()


class FaultyFile(io.FileIO):
    """A file below the folder, where bytes leave Python."""

    def __init__(self, disk: FaultyDisk, path: str, mode: str, opener: Any = None) -> None:
        self.disk, self.path = disk, path
        disk.act("open", path, lambda: io.FileIO.__init__(self, path, mode, opener=opener))

    def write(self, data: Any) -> int:
        content = bytes(data)
        write = super().write
        half = content[: len(content) // 2]
        count: int = self.disk.act("write", self.path, lambda: write(content), lambda: write(half))
        return count

    def truncate(self, size: int | None = None) -> int:
        truncate = super().truncate
        length: int = self.disk.act("truncate", self.path, lambda: truncate(size))
        return length


OPEN, OS_OPEN, OS_WRITE, CLOSE, FSYNC = io.open, os.open, os.write, os.close, os.fsync


@contextmanager
def inject_fault(folder: Path, number: int | None, kind: FaultKind = "dies") -> Iterator[FaultyDisk]:
    """Let the operation of this number (from 1; None: none) below a folder fail. At the end all files are closed.

    The block raises OSError or ProcessDied, unless the program under test handles it.
    """
    disk = FaultyDisk(folder, number, kind)

    def open_file(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        writes = set(mode) & set("wax+")
        if not writes or isinstance(file, int) or not disk.contains(file):
            return OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = FaultyFile(disk, os.fspath(file), mode.replace("b", "").replace("t", ""), opener)
        file_object: Any = raw
        if buffering != 0:
            size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
            file_object = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" not in mode:
            file_object = io.TextIOWrapper(file_object, encoding, errors, newline, line_buffering=buffering == 1)
        disk.files.append((file_object, raw))
        return file_object

    def open_descriptor(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if not flags & WRITE_FLAGS or not disk.contains(path):
            return OS_OPEN(path, flags, *rest, **named)
        place = os.fspath(path)
        descriptor: int = disk.act("open", place, lambda: OS_OPEN(path, flags, *rest, **named))
        disk.descriptors[descriptor] = place
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        if descriptor not in disk.descriptors:
            return OS_WRITE(descriptor, data)
        half = bytes(data)[: len(data) // 2]
        path = disk.descriptors[descriptor]
        count: int = disk.act("write", path, lambda: OS_WRITE(descriptor, data), lambda: OS_WRITE(descriptor, half))
        return count

    def close(descriptor: int) -> None:
        disk.descriptors.pop(descriptor, None)
        CLOSE(descriptor)

    def fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        disk.act("fsync", disk.path_of(number), lambda: FSYNC(number))

    def wrap(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def operation(path: Any, *rest: Any, **options: Any) -> Any:
            if not disk.contains(path):
                return original(path, *rest, **options)
            place = disk.descriptors[path] if isinstance(path, int) else os.fspath(path)
            target = os.fspath(rest[0]) if name in ("replace", "rename", "link") else place
            return disk.act(name, target, lambda: original(path, *rest, **options))

        return operation

    seams: dict[str, Any] = {"open": open_descriptor, "write": write, "close": close, "fsync": fsync}
    seams |= {name: wrap(name) for name in NAMES}
    if hasattr(os, "fdatasync"):
        seams["fdatasync"] = fsync
    with patch.multiple(os, **seams), patch.object(io, "open", open_file), patch.object(builtins, "open", open_file):
        try:
            yield disk
        finally:
            disk.close()

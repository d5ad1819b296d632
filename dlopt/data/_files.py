"""The files that data come from: found by their names, told apart when they change, read once in a process."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from dlopt.base.data import Data, Dataset
from dlopt.errors import OptionError, did_you_mean
from dlopt.storage import memory, regular_file

_last: tuple[tuple[str, str], Dataset] | None = None


def find_file(path: str | None, suffixes: Sequence[str] = (), key: str = "path") -> Path:
    """The file that a key names, with one of these suffixes if any are given; OptionError with the nearest names there."""
    kinds = f", ending in {' or '.join(suffixes)}" if suffixes else ""
    if path is None:
        raise OptionError(key, f"name the file: data.{key}=...{kinds}")
    found = Path(path).expanduser()
    if found.is_dir():
        inside = sorted(f.name for f in found.iterdir() if f.is_file() and (not suffixes or f.suffix in suffixes))
        raise OptionError(key, f"{path} is a folder; name a file{kinds}{did_you_mean('', inside)}")
    if not found.is_file():
        raise OptionError(key, f"there is no file {path}{_near(found)}")
    if suffixes and found.suffix not in suffixes:
        raise OptionError(key, f"must name a file{kinds}; got {path}")
    return found


def _near(missing: Path) -> str:
    """What else there is in the place of a missing file."""
    if not missing.parent.is_dir():
        return f"; there is no folder {missing.parent} either"
    return did_you_mean(missing.name, sorted(f.name for f in missing.parent.iterdir() if f.suffix == missing.suffix))


@contextlib.contextmanager
def open_data_file(path: Path, key: str = "path") -> Iterator[BufferedReader]:
    """A file, open for reading; OptionError where it cannot be, or where it is a pipe or a device."""
    try:
        stream = regular_file.open_regular_file(path)
    except OSError as error:
        raise OptionError(key, f"{path} cannot be read: {error.strerror or error}") from error
    with stream:
        yield stream


def read_data_file(path: Path, key: str = "path") -> bytes:
    """All of a file; OptionError where it cannot be read, or is larger than the memory that is free."""
    with open_data_file(path, key) as stream:
        size = regular_file.file_size(stream)
        check_memory(path, size, key)
        try:
            return stream.read(size)
        except OSError as error:
            raise OptionError(key, f"{path} cannot be read: {error.strerror or error}") from error


def check_memory(path: Path, needed: int, key: str = "path") -> None:
    """Mistake where what a file holds needs so many bytes, and fewer are free."""
    try:
        memory.check(needed, str(path))
    except memory.NotEnoughMemoryError as error:
        raise OptionError(key, str(error)) from error


def file_fingerprint(paths: Iterable[Path]) -> str:
    """What tells whether files have changed: path, size, times and place; a folder's with those of all files in it."""
    lines = []
    for path in paths:
        for inner in sorted(path.rglob("*")) if path.is_dir() else [path]:
            status = inner.stat()
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"  # copying tools set the former, nothing the latter
            lines.append(f"{inner.resolve()} {status.st_size} {times} {status.st_ino}")
    return "\n".join(lines)


def digest(paths: Iterable[Path]) -> str:
    """The SHA-256 of the files' contents: kept with a run, it tells later whether they are still the same."""
    sha = hashlib.sha256()
    for path in paths:
        with regular_file.open_regular_file(path) as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


def cached_dataset(option: Data, paths: Sequence[Path], read: Callable[[], Dataset]) -> Dataset:
    """What read() makes of these files; the same object again while option and files stay what they are.

    So runs that differ in how many examples they keep, or in anything but the data, share one copy in memory.
    """
    global _last  # noqa: PLW0603
    key = (repr(replace(option, train_size=None, label_noise=0.0, drop_last=False)), file_fingerprint(paths))
    if _last is None or _last[0] != key:
        _last = None  # the former data set is let go before this one is made
        _last = (key, read())
    return _last[1]


def clear_cache() -> None:
    """Read anew the next time, as a new process would."""
    global _last  # noqa: PLW0603
    _last = None

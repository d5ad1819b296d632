"""The files of data options: finding them, reading them within memory, and the last data set that was read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from dlopt.base.data import Data, Dataset
from dlopt.errors import OptionError, did_you_mean
from dlopt.storage import memory, regular_file


def find_file(path: str | None, suffixes: Sequence[str] = (), key: str = "path") -> Path:
    """Return the file at a path, with one of the suffixes if any are given. Raise OptionError with similar names."""
    kinds = f", ending in {' or '.join(suffixes)}" if suffixes else ""
    if path is None:
        raise OptionError(key, f"name the file: data.{key}=...{kinds}")
    file = Path(path).expanduser()
    if file.is_dir():
        inside = sorted(f.name for f in file.iterdir() if f.is_file() and (not suffixes or f.suffix in suffixes))
        raise OptionError(key, f"{path} is a folder; name a file{kinds}{did_you_mean('', inside)}")
    if not file.is_file():
        if file.exists():
            raise OptionError(key, f"{path} is a pipe or a device; name a file{kinds}")
        if file.is_symlink():
            raise OptionError(key, f"{path} is a link to {file.readlink()}, which does not exist")
        if not file.parent.is_dir():
            raise OptionError(key, f"there is no file {path}; there is no folder {file.parent} either")
        similar = sorted(f.name for f in file.parent.iterdir() if f.suffix == file.suffix and f.is_file())
        raise OptionError(key, f"there is no file {path}{did_you_mean(file.name, similar)}")
    if suffixes and file.suffix not in suffixes:
        raise OptionError(key, f"must name a file{kinds}; got {path}")
    return file


@contextlib.contextmanager
def open_data_file(path: Path, key: str = "path") -> Iterator[BufferedReader]:
    """Open a file for reading. Raise OptionError if it is a pipe or a device, or if reading fails."""
    try:
        with regular_file.open_regular_file(path) as stream:
            yield stream
    except OSError as error:
        raise OptionError(key, f"{path} cannot be read: {error.strerror or error}") from error


def read_data_file(path: Path, key: str = "path") -> bytes:
    """Return the content of a file. Raise OptionError if it cannot be read or exceeds the available memory."""
    with open_data_file(path, key) as stream:
        size = regular_file.file_size(stream)
        check_memory(path, size, key)
        return stream.read(size)


def check_memory(path: Path, needed: int, key: str = "path") -> None:
    """Raise OptionError if the content of a file needs more bytes than are available."""
    try:
        memory.check(needed, str(path))
    except memory.NotEnoughMemoryError as error:
        raise OptionError(key, str(error)) from error


class DatasetCache:
    """Keeps the last data set, so that runs with the same data share one copy in memory.

    functools.lru_cache would hold the previous data set while the next one is read.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._dataset: Dataset | None = None

    def load(self, option: Data, fingerprint: str, read: Callable[[], Dataset]) -> Dataset:
        """Return read(), or the last data set if the option and the fingerprint of its files are the same.

        train_size, label_noise, drop_last and order do not count: they act after reading.
        """
        own = replace(option, train_size=None, label_noise=0.0, drop_last=False, order="reshuffle")
        key = (repr(own), fingerprint)
        if self._dataset is None or self._key != key:
            self.clear()  # free the previous data set before this one is read
            self._key, self._dataset = key, read()
        return self._dataset

    def clear(self) -> None:
        self._key = self._dataset = None


cache = DatasetCache()

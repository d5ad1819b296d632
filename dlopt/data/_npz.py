"""numpy's files: .npy, one array behind a header, and .npz, an archive of such files.

What a header says is held against the bytes that are there, and against the memory that is free, before an array is
made: a header of a hundred bytes may speak of terabytes, and a small archive may hold as many.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import IO

import numpy as np

from dlopt.storage import memory, regular_file

LONGEST_HEADER = 1 << 14
"""Bytes in which the header of an array ends; numpy's are some hundred long."""


class UnreadableArrayFile(ValueError):
    """A file is none of numpy's, is damaged, or holds Python objects; the message has one line."""


def read_npy(stream: BufferedReader) -> np.ndarray:
    """The array of an .npy file. Raises UnreadableTensorFile, and memory.NotEnoughMemoryError."""
    return _read_array(stream, regular_file.file_size(stream), "the array")


class NpzArrays(Mapping[str, np.ndarray]):
    """The arrays of an .npz file by their names, each read when it is asked for.

    Raises UnreadableTensorFile; reading an array raises memory.NotEnoughMemoryError too.
    """

    def __init__(self, stream: BufferedReader) -> None:
        try:
            self._archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise UnreadableArrayFile(f"it cannot be read, or is damaged ({error})") from error
        names = [member.filename for member in self._archive.infolist()]
        if len(set(names)) < len(names):
            raise UnreadableArrayFile("it holds two arrays of one name")
        self._members = {name.removesuffix(".npy"): name for name in names}

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._archive.getinfo(self._members[name])
        try:
            with self._archive.open(member) as stream:
                return _read_array(stream, member.file_size, name)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise UnreadableArrayFile(f"it cannot be read, or is damaged ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _read_array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array in a stream of so many bytes."""
    header = io.BytesIO(stream.read(LONGEST_HEADER))
    try:
        version = np.lib.format.read_magic(header)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(header)
    except Exception as error:  # a header is a piece of Python, whose parser fails in a dozen ways
        raise UnreadableArrayFile(f"the header of {name} cannot be read, or is damaged") from error
    if dtype.hasobject:
        raise UnreadableArrayFile(f"{name} holds Python objects, which are not read: save it as numbers or as text")
    needed = math.prod(shape) * dtype.itemsize
    if header.tell() + needed != size or min(shape, default=0) < 0:
        raise UnreadableArrayFile(
            f"the header of {name} speaks of shape {str(shape)[:80]}, which needs {needed} bytes; there are "
            f"{size - header.tell()}"
        )
    memory.check(needed, name)
    stream.seek(0)
    try:
        return np.lib.format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise UnreadableArrayFile(f"{name} cannot be read, or is damaged ({error})") from error

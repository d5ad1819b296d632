"""Arrays in .npy files: read, or mapped if they are large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlopt.data import _files, _npz
from dlopt.errors import OptionError
from dlopt.storage import memory
from dlopt.storage.mapped_array import MappedArray

MemoryMap = Literal["auto"] | bool

PART = 0.5
"""Part of the available memory from which on an array is mapped, counted in float32."""


def read_inputs(file: Path, memory_map: MemoryMap, key: str = "path") -> np.ndarray | MappedArray:
    """Read the inputs in an .npy file, or map them if that is chosen, or if float32 would take half of the memory."""
    if memory_map is False:
        return read_array(file, key)
    with _files.open_data_file(file, key):  # not a pipe or a device
        pass
    try:
        array = MappedArray(file)
    except (OSError, ValueError) as error:
        if memory_map == "auto":  # read it, or say what is wrong
            return read_array(file, key)
        raise OptionError(key, f"{file} cannot be mapped: {error}") from error
    needed = 4 * int(np.prod(array.shape, dtype=object))
    if memory_map is True or needed > max(memory.SMALL, PART * memory.get_available()):
        return array
    return read_array(file, key)


@contextmanager
def open_numpy_file(file: Path, key: str, magic: bytes, suffix: str) -> Iterator[BufferedReader]:
    """Open a file of numpy that begins with these bytes. Errors become an OptionError at the key."""
    with _files.open_data_file(file, key) as stream:
        if stream.read(len(magic)) != magic:
            raise OptionError(key, f"{file} is not a valid {suffix} file")
        stream.seek(0)
        try:
            yield stream
        except (_npz.UnreadableArrayFile, memory.NotEnoughMemoryError, OSError) as error:
            raise OptionError(key, f"{file}: {error}") from error


def read_array(file: Path, key: str) -> np.ndarray:
    """Read the array in an .npy file. Errors become an OptionError at the key."""
    with open_numpy_file(file, key, b"\x93NUMPY", ".npy") as stream:
        return _npz.read_npy(stream)


class NpyFolder(Mapping[str, Any]):
    """The arrays in the .npy files of a folder by the names of the files; those of inputs may be mapped."""

    def __init__(self, folder: Path, inputs: str, memory_map: MemoryMap) -> None:
        self._files = {file.stem: file for file in sorted(folder.glob("*.npy"))}
        self._inputs = inputs
        self._memory_map = memory_map

    def __getitem__(self, name: str) -> np.ndarray | MappedArray:
        file = self._files[name]
        if name in (self._inputs, f"{self._inputs}_train", f"{self._inputs}_test"):
            return read_inputs(file, self._memory_map)
        return read_array(file, "path")

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def files(self) -> list[Path]:
        return list(self._files.values())

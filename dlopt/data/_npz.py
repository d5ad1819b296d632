"""The files of numpy: .npy, one array, and .npz, an archive of named arrays.

They are read with numpy.lib.format. numpy.load lacks three checks: it does not compare the size of an array with the
available memory, it ignores bytes after an array and thus the checksum of one whose header was damaged, and it raises a
dozen kinds of errors.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import IO

import numpy as np

from dlopt.storage import memory, regular_file


class UnreadableArrayFile(ValueError):
    """A file is not one of numpy's, is damaged, or holds Python objects; the message has one line."""


def read_npy(stream: BufferedReader) -> np.ndarray:
    """Read the array of an .npy file. Raises UnreadableArrayFile and memory.NotEnoughMemoryError."""
    return _read_array(stream, regular_file.file_size(stream), "the array")


class NpzArrays(Mapping[str, np.ndarray]):
    """The arrays of an .npz file by name, each read on access.

    Raises UnreadableArrayFile; access also raises memory.NotEnoughMemoryError.
    """

    def __init__(self, stream: BufferedReader) -> None:
        try:
            self._archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise UnreadableArrayFile(f"it is damaged or not an .npz file ({error})") from error
        self._members = {info.filename.removesuffix(".npy"): info for info in self._archive.infolist()}
        if len(self._members) < len(self._archive.infolist()):
            raise UnreadableArrayFile("it holds two arrays of the same name")

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._members[name]
        try:
            stream = self._archive.open(member)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise UnreadableArrayFile(f"{name} is damaged ({error})") from error
        with stream:
            return _read_array(stream, member.file_size, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _read_array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """Read an array from a stream of `size` bytes. Of a header that claims more, numpy only reserves it."""
    memory.check(size, name)
    try:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        rest = stream.read(1)  # at its end, zipfile compares the checksum
    except Exception as error:  # damaged files raise a dozen kinds of errors
        reason = str(error).partition("\n")[0] or type(error).__name__
        if "Object arrays" in reason:
            reason = (
                "it holds Python objects; pad series of different lengths with NaN, or torch.save a list of tensors"
            )
        raise UnreadableArrayFile(f"{name} cannot be read as numbers or text: {reason}") from error
    if rest:
        raise UnreadableArrayFile(f"{name} is damaged: {size} bytes are more than its header states")
    return array

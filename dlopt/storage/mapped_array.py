"""Arrays of .npy files that stay in their file: rows are copied from it, and memory is given back."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from dlopt.storage.regular_file import open_regular_file

KEPT_BYTES = 1 << 26
"""Bytes of a file in the memory of this process, by estimation, after which they are given back."""
BYTES_AROUND = 1 << 17
"""Bytes that come into memory with a row that is read, by estimation: the system maps many pages at once."""


class MappedArray:
    """An array (N, ...) in an .npy file, of which rows are read.

    Pages of a mapped file count as memory of the process until they are given back. The system keeps what fits into
    memory, so reading it again is fast. Raises OSError or ValueError if the file is not such an array.
    """

    def __init__(self, file: Path) -> None:
        with open_regular_file(file) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise ValueError(f"version {version} of the format is for records, not for numbers")
            shape, is_fortran, self.dtype = read_header(stream)
            if is_fortran or self.dtype.hasobject or not shape:
                raise ValueError("it must be an array of numbers or text in the order of C, of one dimension or more")
            count = int(np.prod(shape, dtype=object))
            offset, size = stream.tell(), stream.seek(0, 2)
            if size - offset != count * self.dtype.itemsize:
                raise ValueError(f"its header states {count * self.dtype.itemsize} bytes, and it has {size - offset}")
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._array = np.frombuffer(self._map, self.dtype, count, offset).reshape(shape)
        self.shape: tuple[int, ...] = shape
        self._mapped_bytes = 0

    @property
    def nbytes(self) -> int:
        return self._array.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | list[int] | slice) -> np.ndarray:
        """Return a copy of these rows."""
        copy = self._array[rows] if not isinstance(rows, slice) else self._array[rows].copy()
        self._mapped_bytes += copy.nbytes + len(copy) * BYTES_AROUND
        if self._mapped_bytes > KEPT_BYTES < self._array.nbytes and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped_bytes = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        return copy

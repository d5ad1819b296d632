"""The IDX format, in which MNIST and its successors come: a header of a few bytes, then the numbers of one array.

    bytes 0, 1   zero
    byte 2       type of the numbers: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D float32, 0x0E float64
    byte 3       how many dimensions
    then         the size of each dimension, four bytes, the highest first; the numbers in order, highest bytes first

Source: LeCun, Cortes and Burges 1998, the page of the MNIST database.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from typing import NamedTuple

import numpy as np

from dlopt.storage import memory

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LONGEST_HEADER = 4 + 4 * 255
CHUNK = 1 << 20
"""Bytes that are unpacked at once: more would lie in memory a second time."""


class Header(NamedTuple):
    """What the first bytes say of an array, and how many they are."""

    kind: np.dtype
    shape: tuple[int, ...]
    length: int

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole."""
        return self.length + math.prod(self.shape) * self.kind.itemsize


def decompress(content: bytes) -> bytes | bytearray:
    """The content of a file, compressed by gzip or not.

    The compressed form may hold any multiple of its size: no more of it is read than its header speaks of. ValueError
    where it is damaged or goes on, and where that is more than the memory that is free.
    """
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            begins = stream.read(LONGEST_HEADER)
            expected = parse_header(begins).total_bytes
            memory.check(expected)
            whole = bytearray(begins)
            while chunk := stream.read(min(CHUNK, max(0, expected - len(whole)))):
                whole += chunk
            if stream.read(1):  # at the end stands gzip's own checksum, which is compared here
                raise ValueError(f"it goes on after the {expected} bytes of which its header speaks")
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"its compressed form is damaged or cut off ({error})") from error
    return whole


def parse_header(content: bytes | bytearray) -> Header:
    """The header with which content begins; ValueError says what is wrong."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or content[3] == 0:
        raise ValueError(f"it is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dims = content[3]
    length = 4 + 4 * dims
    if len(content) < length:
        raise ValueError(f"it is cut off in its header, after {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dims, offset=4))
    return Header(np.dtype(TYPES[content[2]]), shape, length)


def read(content: bytes | bytearray) -> np.ndarray:
    """The array that uncompressed bytes hold, in the machine's order of bytes; ValueError says what is wrong."""
    kind, shape, length = said = parse_header(content)
    if len(content) != said.total_bytes:
        raise ValueError(f"it has {len(content)} bytes; numbers of shape {shape} need {said.total_bytes}")
    return np.frombuffer(content, kind, offset=length).reshape(shape).astype(kind.newbyteorder("="), copy=False)

"""The IDX format, in which MNIST and its successors come: a header of a few bytes, then the numbers of one array.

    bytes 0, 1   zero
    byte 2       type of the numbers: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D float32, 0x0E float64
    byte 3       how many dimensions
    then         the size of each dimension, four bytes, the highest first; the numbers in order, highest bytes first

Source: LeCun, Cortes and Burges 1998, the page of the MNIST database.
"""

from __future__ import annotations

import gzip
import math
import zlib

import numpy as np

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def unpacked(content: bytes) -> bytes:
    """The content of a file, compressed by gzip or not; ValueError where the compressed form is damaged."""
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"its compressed form is damaged or cut off ({error})") from error


def read(content: bytes) -> np.ndarray:
    """The array that uncompressed bytes hold, in the machine's order of bytes; ValueError says what is wrong."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or content[3] == 0:
        raise ValueError(f"it is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    kind, dims = np.dtype(TYPES[content[2]]), content[3]
    begin = 4 + 4 * dims
    if len(content) < begin:
        raise ValueError(f"it is cut off in its header, after {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dims, offset=4))
    expected = begin + math.prod(shape) * kind.itemsize
    if len(content) != expected:
        raise ValueError(f"it has {len(content)} bytes; numbers of shape {shape} need {expected}")
    return np.frombuffer(content, kind, offset=begin).reshape(shape).astype(kind.newbyteorder("="), copy=False)

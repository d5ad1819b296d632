"""The IDX format of MNIST and its successors: a short header, then the numbers of one array.

    bytes 0, 1   zero
    byte 2       type of the numbers: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D float32, 0x0E float64
    byte 3       number of dimensions
    then         the size of each dimension in four bytes, then the numbers in C order, all big-endian

Source: LeCun, Cortes and Burges 1998, the page of the MNIST database.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib

import numpy as np

from dlopt.storage import memory

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LONGEST_HEADER = 4 + 4 * 255
CHUNK = 1 << 20
"""Bytes that are unpacked at once; they are in memory twice."""


def decompress(content: bytes) -> bytes | bytearray:
    """Return the content of a file, compressed by gzip or not.

    A small compressed file can unpack to any size, so no more is read than the header of the array states. Raises
    ValueError if the file is damaged, continues after that, or needs more than the available memory.
    """
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            start = stream.read(LONGEST_HEADER)
            expected = parse_header(start)[2]
            memory.check(expected)
            whole = bytearray(start)
            while chunk := stream.read(min(CHUNK, max(0, expected - len(whole)))):
                whole += chunk
            if stream.read(1):  # at the end, gzip compares its checksum
                raise ValueError(f"it continues after the {expected} bytes that its header states")
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"the compressed file is damaged or truncated ({error})") from error
    return whole


def parse_header(content: bytes | bytearray) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return type and shape of the array, and the bytes of header and numbers. Raise ValueError if it is not valid."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES or content[3] == 0:
        raise ValueError(f"it is not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dims = content[3]
    if len(content) < 4 + 4 * dims:
        raise ValueError(f"it is truncated in its header, after {len(content)} bytes")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dims, offset=4))
    kind = np.dtype(TYPES[content[2]])
    return kind, shape, 4 + 4 * dims + math.prod(shape) * kind.itemsize


def read(content: bytes | bytearray) -> np.ndarray:
    """Return the array of uncompressed content in native byte order. Raise ValueError if the content is not valid."""
    kind, shape, expected = parse_header(content)
    if len(content) != expected:
        raise ValueError(f"it has {len(content)} bytes; numbers of shape {shape} need {expected}")
    array = np.frombuffer(content, kind, offset=4 + 4 * len(shape))
    return array.reshape(shape).astype(kind.newbyteorder("="), copy=False)

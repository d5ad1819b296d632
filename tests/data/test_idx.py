"""The IDX format: round trips, and refusal of invalid content."""

import contextlib
import gzip
import struct

import numpy as np
import pytest
from helpers import encode_idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlopt.data import _idx

CODES = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
A = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def encode(array):
    """Encode an array number by number, as the page of the MNIST database describes it."""
    letter = {"u1": "B", "i1": "b", "i2": "h", "i4": "i", "f4": "f", "f8": "d"}[array.dtype.str[1:]]
    header = struct.pack(">HBB", 0, CODES[array.dtype.str[1:]], array.ndim)
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    return header + sizes + b"".join(struct.pack(f">{letter}", x) for x in array.ravel().tolist())


@given(
    st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=4, max_side=4), elements={"allow_nan": False} if kind[0] == "f" else None)
    )
)  # fmt: skip
def test_every_type_and_shape_is_read_as_it_was_encoded(array):
    result = _idx.read(encode(array))
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


def test_the_helper_encodes_the_format():
    assert encode_idx(A) == encode(A)


def test_compressed_or_not():
    content = encode(A)
    assert _idx.decompress(content) == content
    assert _idx.decompress(gzip.compress(content)) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "nothing"),
        (b"<html><body>", "IDX.*3c 68 74 6d"),
        (b"\0\0\x08", "IDX"),
        (b"\0\1" + encode(A)[2:], "IDX"),
        (b"\0\0\x0a" + encode(A)[3:], "IDX"),
        (b"\0\0\x08\0", "IDX"),
        (encode(A)[:9], "header"),
        (encode(A)[:-1], "39 bytes.* 40"),
        (encode(A) + b"\0", "41 bytes"),
    ],
)
def test_invalid_content_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        _idx.read(content)


def test_a_damaged_compressed_form_is_refused_wherever_it_is_cut():
    whole = gzip.compress(encode(A))
    for size in range(2, len(whole)):
        with pytest.raises(ValueError, match="damaged"):
            _idx.decompress(whole[:size])


@pytest.mark.parametrize("flip", [1, 16, 128])
def test_a_flipped_byte_of_the_compressed_form_never_gives_other_content(flip):
    content = encode(A)
    whole = gzip.compress(content)
    for at in range(2, len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
        with contextlib.suppress(ValueError):
            assert _idx.decompress(damaged) == content  # bytes of the header, such as the time, do not matter

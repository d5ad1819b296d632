"""The IDX format: what is read is what was written, and what is not of the format is refused."""

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


def written(array):
    """As the page of the MNIST database describes it, number by number."""
    letter = {"u1": "B", "i1": "b", "i2": "h", "i4": "i", "f4": "f", "f8": "d"}[array.dtype.str[1:]]
    header = struct.pack(">HBB", 0, CODES[array.dtype.str[1:]], array.ndim)
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    return header + sizes + b"".join(struct.pack(f">{letter}", x) for x in array.ravel().tolist())


@given(
    st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=4, max_side=4), elements={"allow_nan": False} if kind[0] == "f" else None)
    )
)  # fmt: skip
def test_every_type_and_shape_is_read_as_it_was_written(array):
    found = _idx.read(written(array))
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_the_helper_writes_the_format():
    assert encode_idx(A) == written(A)


def test_compressed_or_not():
    content = written(A)
    assert _idx.decompress(content) == content
    assert _idx.decompress(gzip.compress(content)) == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "nothing"),
        (b"<html><body>", "IDX.*3c 68 74 6d"),
        (b"\0\0\x08", "IDX"),
        (b"\0\1" + written(A)[2:], "IDX"),
        (b"\0\0\x0a" + written(A)[3:], "IDX"),
        (b"\0\0\x08\0", "IDX"),
        (written(A)[:9], "header"),
        (written(A)[:-1], "39 bytes.* 40"),
        (written(A) + b"\0", "41 bytes"),
    ],
)
def test_what_is_not_of_the_format_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        _idx.read(content)


def test_a_damaged_compressed_form_is_refused_wherever_it_is_cut():
    whole = gzip.compress(written(A))
    for size in range(2, len(whole)):
        with pytest.raises(ValueError, match="damaged"):
            _idx.decompress(whole[:size])


@pytest.mark.parametrize("flip", [1, 16, 128])
def test_a_flipped_byte_of_the_compressed_form_never_gives_other_content(flip):
    content = written(A)
    whole = gzip.compress(content)
    for at in range(2, len(whole)):
        damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
        with contextlib.suppress(ValueError):
            assert _idx.decompress(damaged) == content  # a byte of the header, such as the time, matters to nobody

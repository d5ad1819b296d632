"""Inputs in a file have the bits of the same inputs in memory, and only what is needed is read."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlopt.base import mapped_inputs
from dlopt.base.data import Split
from dlopt.base.mapped_inputs import MappedInputs, map_inputs
from dlopt.storage import mapped_array, memory
from dlopt.storage.mapped_array import MappedArray

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 2, 3), dtype=np.uint8)
WHOLE = torch.from_numpy(PIXELS).float() / 255


class Counted:
    """Scales pixels to 0..1, and counts the converted examples."""

    def __init__(self):
        self.count = 0

    def __call__(self, examples):
        self.count += len(examples)
        return torch.from_numpy(examples).float() / 255


@pytest.fixture
def inputs(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    return MappedInputs(MappedArray(tmp_path / "x.npy"), Counted())


@pytest.mark.parametrize("rows", [slice(3), slice(None), torch.tensor([4, 0, 4]), torch.tensor([[1, 2], [29, 0]])])
def test_reading_gives_what_indexing_in_memory_gives(inputs, rows):
    assert torch.equal(inputs[rows], WHOLE[rows])
    assert inputs.convert.count == WHOLE[rows].numel() // 6 + 1  # one for the shape


def test_it_describes_itself_as_a_tensor_does(inputs):
    for name in ("shape", "dtype"):
        assert getattr(inputs, name) == getattr(WHOLE, name)
    assert (len(inputs), inputs.numel(), inputs.is_floating_point()) == (30, 180, True)
    assert inputs.convert.count == 1


def test_selections_and_functions_can_be_combined_without_reading(inputs):
    rows = torch.arange(29, 0, -3)
    chosen = map_inputs(lambda x: 2 * x - 1, inputs.select(rows)).select(torch.tensor([2, 0])).to("cpu", torch.float64)
    assert inputs.convert.count == 0
    assert torch.equal(chosen[:], (2 * WHOLE[rows][[2, 0]] - 1).double())
    assert torch.equal(Split(inputs, torch.arange(30), rows).gather()[0], WHOLE[rows])
    assert torch.equal(Split(inputs, torch.arange(30)).gather()[0], WHOLE)


def test_chunks_are_small_and_hold_everything_in_order(inputs, monkeypatch):
    monkeypatch.setattr(mapped_inputs, "CHUNK_BYTES", 7 * 24)
    chunks = list(inputs.chunks())
    assert [len(chunk) for chunk in chunks] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat(chunks), WHOLE)


def test_more_than_the_available_memory_is_not_read(inputs, monkeypatch):
    monkeypatch.setattr(mapped_inputs, "CHECKED_BYTES", 100)
    monkeypatch.setattr(memory, "SMALL", 100)
    monkeypatch.setattr(memory, "get_available", lambda: 500)
    inputs[:5]
    with pytest.raises(memory.NotEnoughMemoryError, match="reading 30 examples at once needs"):
        inputs[:]
    assert inputs.convert.count == 6


# ------------------------------------------------------------------------------------------------ the file


def count_resident(file):
    """Return the bytes of a file that count as memory of this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if line.endswith(str(file)))
    return 1024 * int(next(line.split()[1] for line in lines[place:] if line.startswith("Rss:")))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_that_were_read_are_given_back(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(1 << 20))
    array = MappedArray(tmp_path / "x.npy")
    np.testing.assert_array_equal(array[:], np.arange(1 << 20))
    assert count_resident(tmp_path / "x.npy") >= 8 << 20
    monkeypatch.setattr(mapped_array, "KEPT_BYTES", 1 << 20)
    for first in range(0, 1 << 20, 1 << 16):
        np.testing.assert_array_equal(array[first : first + (1 << 16)], np.arange(first, first + (1 << 16)))
    assert count_resident(tmp_path / "x.npy") < 4 << 20


def pack(array):
    """Return the content of an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True), "numbers or text"),
        (lambda file: np.save(file, np.asfortranarray(np.eye(3)[:, :2])), "order of C"),
        (lambda file: np.save(file, np.float64(1)), "one dimension"),
        (lambda file: file.write_bytes(pack(np.eye(3))[:150]), "its header states 72 bytes, and it has 22"),
        (lambda file: file.write_bytes(pack(np.eye(3)) + b"more"), "states 72 bytes, and it has 76"),
        (lambda file: file.write_bytes(b"hello, world"), "magic"),
    ],
)
def test_other_files_are_refused(tmp_path, write, words):
    write(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=words):
        MappedArray(tmp_path / "x.npy")

"""Inputs in a file have the bits of the same inputs in memory, and only what is needed is read."""

import numpy as np
import pytest
import torch

from dlopt.base import mapped_inputs
from dlopt.base.data import Split
from dlopt.base.mapped_inputs import MappedInputs, map_inputs
from dlopt.storage import memory

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
    return MappedInputs(np.load(tmp_path / "x.npy", mmap_mode="r"), Counted())


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
    monkeypatch.setattr(mapped_inputs, "CHUNK_BYTES", 100)
    monkeypatch.setattr(memory, "SMALL", 100)
    monkeypatch.setattr(memory, "get_available", lambda: 500)
    inputs[:5]
    with pytest.raises(memory.NotEnoughMemoryError, match="reading 30 examples at once needs"):
        inputs[:]
    assert inputs.convert.count == 6
